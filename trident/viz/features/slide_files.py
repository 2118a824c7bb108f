"""Where the slide files of a job directory are, by what its state files say or in a folder that a user names."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from trident.errors import SlideError, StoreError
from trident.slides.base import Slide
from trident.store.layout import JobLayout
from trident.viz.report.values import load_object, mapping, text

_STATE_NAME = re.compile(r"(?P<name>.*)__[0-9a-f]{12}\.json", re.DOTALL)
_MAX_NAME_BYTES = 236
"""State files keep so much of a long name."""


class SlideFiles:
    """Finds and opens the slides of a job."""

    def __init__(self, job_dir: Path, wsi_dir: Path | None = None) -> None:
        """Args:
        job_dir: the job directory.
        wsi_dir: folder to look for slides in, with its subfolders, where they are not where they were.
        """
        self._job_dir = job_dir
        self._wsi_dir = wsi_dir

    def path(self, slide: str) -> Path | None:
        """The file of a slide; None where nobody knows it. It need not exist.

        Raises:
            DiscoveryError: the folder that the user named cannot be used.
        """
        if self._wsi_dir is not None:
            return self._in_folder.get(slide)
        newest, path = "", None
        for file in self._states.get(_key(slide), ()):
            state, _ = load_object(file)
            about = mapping(state.get("slide"))
            noted, updated = text(about.get("abs_path")), str(state.get("updated_at"))
            if about.get("name") == slide and noted and updated >= newest:
                newest, path = updated, Path(noted)
        return path

    def open(self, slide: str) -> Slide:
        """Open a slide.

        Raises:
            StoreError: nobody knows where it is.
            SlideError: it is gone, or does not open.
            NotAvailableError: its reader's library is not installed.
        """
        from trident.slides.registry import open_slide

        path = self.path(slide)
        if path is None:
            raise StoreError(f"{slide}: its file is not known here; name the folder of the slides with --wsi_dir")
        if not path.exists():
            raise SlideError(path, "the slide is gone; name the folder where it is now with --wsi_dir")
        return open_slide(path, name=slide)

    @cached_property
    def _states(self) -> dict[str, list[Path]]:
        """State files by slide name, as much of it as they have."""
        folder = JobLayout(self._job_dir, ".").states_dir
        found: dict[str, list[Path]] = {}
        if folder.is_dir():
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names suffice
                match = _STATE_NAME.fullmatch(name)
                if match and not name.startswith("."):
                    found.setdefault(match["name"], []).append(folder / name)
        return found

    @cached_property
    def _in_folder(self) -> dict[str, Path]:
        from trident.slides.discovery import find_slides

        assert self._wsi_dir is not None
        return {one.name: one.path for one in find_slides(self._wsi_dir, search_nested=True)}


def _key(slide: str) -> str:
    return os.fsdecode(os.fsencode(slide)[:_MAX_NAME_BYTES].decode("utf-8", "ignore").encode())
