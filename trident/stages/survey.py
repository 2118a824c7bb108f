"""Where the stages of many slides stand, found out together: folders are listed once, and nothing unchanged is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

from trident.errors import StoreError
from trident.file_stats import ask_all
from trident.stages.base import Stage, Status
from trident.stages.plan import JobStages
from trident.stages.tracking import state_file
from trident.store.output_index import OutputIndex
from trident.store.output_view import ListedOutputs
from trident.store.states import SlideStateFile

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

_TOGETHER = 2000
"""Slides whose files are asked for at once; what is known of them is forgotten before the next."""

_READERS = 16
"""Threads that read outputs; HDF5 lets one of them in at a time, so more would not help."""

_ENDED_WELL = {"completed", "skipped"}


class Survey:
    """Looks at the outputs of one job, as often as it is asked to, and remembers what reading them gave."""

    def __init__(self, stages: JobStages) -> None:
        self._stages = stages
        self._job = stages.job

    @cached_property
    def _index(self) -> OutputIndex:
        return OutputIndex.load(self._job.layout.private_dir)

    def statuses(self, slides: Iterable[str]) -> dict[tuple[str, str], Status]:
        """Where each stage that this job makes stands, by (slide name, stage key): what `Stage.status` says now."""
        view = ListedOutputs(self._index)
        stages = self._stages.seen_by(view)
        found = {}
        for names in _parts(slides):
            together = [self._links(stages, name) for name in names]
            places = [(link, link.places()) for links in together for link in links.values()]
            view.look(path for _, paths in places for path in paths)
            for link, paths in places:
                link.fix_output(paths[0] if len(paths) == 1 else link.output)
            answers = _ask(self._statuses_of, together, lambda links: all(view.knows(k.output) for k in links.values()))
            for name, answer in zip(names, answers, strict=True):
                found.update({(name, key): status for key, status in answer.items()})
        return found

    def unrecorded(self, done: Iterable[tuple[str, str]]) -> Iterator[Stage]:
        """Those of the given stages, by (slide name, stage key), whose slide's state file does not say that they ended.

        A state file that cannot be read says nothing: whoever records a stage in it puts it aside.
        """
        keys: dict[str, list[str]] = {}
        for slide, key in done:
            keys.setdefault(slide, []).append(key)
        view = ListedOutputs(self._index)

        def ended(file: SlideStateFile) -> list[str]:
            return view.fact(file.path, "stages that ended well", lambda: _ended_well(file))

        for names in _parts(keys):
            files = [state_file(self._job.layout, self._job.slides[name]) for name in names]
            view.look(file.path for file in files)
            recorded = _ask(ended, files, lambda file: view.knows(file.path))
            for name, keys_there in zip(names, recorded, strict=True):
                for key in keys[name]:
                    if key not in keys_there:
                        yield self._stages.of_key(key, name)

    def keep(self) -> None:
        """Keep what was found for the next run."""
        self._index.save()

    def _links(self, stages: JobStages, slide: str) -> dict[str, Stage]:
        """The stages that the job makes for a slide and those behind their `needs`, each once, by key."""
        links: dict[str, Stage] = {}
        for key in reversed(self._job.stages):
            current = None if key in links else stages.of_key(key, slide)
            while current is not None and current.key not in links:
                links[current.key] = current
                current = current.needs
        return links

    def _statuses_of(self, links: dict[str, Stage]) -> dict[str, Status]:
        return {key: links[key].status() for key in self._job.stages}


def _parts(slides: Iterable[str]) -> Iterator[list[str]]:
    names = list(slides)
    for start in range(0, len(names), _TOGETHER):
        yield names[start : start + _TOGETHER]


def _ask(
    question: Callable[[_Item], _Answer], items: Sequence[_Item], is_known: Callable[[_Item], bool]
) -> list[_Answer]:
    """`question` of each item, in order; of those that need reading in threads, since reading waits for the disk."""
    new = [number for number, item in enumerate(items) if not is_known(item)]
    read = dict(zip(new, ask_all(question, [items[number] for number in new], _READERS), strict=True))
    return [read[number] if number in read else question(item) for number, item in enumerate(items)]


def _ended_well(file: SlideStateFile) -> list[str]:
    try:
        tasks = file.read()["tasks"]
    except StoreError:
        return []
    return [key for key, task in tasks.items() if task.get("status") in _ENDED_WELL]
