"""What a container must see of this host to do a job's stages: folders, weights, network. Nothing is started here."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trident.encoders import weights
from trident.encoders.shards import is_index
from trident.errors import ExecutorError
from trident.executors.container_paths import Given, given_file, given_folders
from trident.job import PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, Job, absolute_path

_OF_THE_IMAGE = tuple(
    map(Path, ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/venv", "/proc", "/sbin", "/sys", "/usr"))
)
_ABOVE_THESE = tuple(map(Path, ("/", "/home", "/opt")))
_SHARED_MEMORY = Path("/dev/shm")
_HUB_ACCESS = ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class ContainerNeeds:
    """What a container gets, under the absolute paths by which it is looked up."""

    read_only: tuple[Path, ...]
    writable: tuple[Path, ...]
    network: bool
    """Whether something is still to be downloaded."""
    environment: dict[str, str] = field(repr=False)
    """May hold an access token: never to be shown."""
    sources: Mapping[Path, Path] = field(default_factory=dict)
    """Where something lies on this host, if its path leads elsewhere here."""


def container_needs(job: Job) -> ContainerNeeds:
    """What the executors of a job need.

    Raises:
        ExecutorError: a folder that no container can have.
        WeightsError: a path of weights is wrong.
    """
    hub = _hub_needs(job)
    writable = [job.settings.job_dir]
    if job.settings.wsi_cache is not None:
        writable.append(_made(job.settings.wsi_cache))
    environment = {name: os.environ[name] for name in _THREADS if os.environ.get(name)}
    read_only = [*slide_folders(job, writable), *hub.files]
    if hub.cache is not None:
        environment["HF_HUB_CACHE"] = str(hub.cache)
        made = _made(hub.cache)
        if hub.network:
            writable.append(made)
        else:
            read_only.append(Given(made, made))
    if hub.registry is not None:
        environment[weights.LOCAL_CKPTS_ENV] = str(hub.registry)
        read_only.append(given_file(hub.registry))
    if hub.network:
        environment.update(_hub_access())
    else:
        environment["HF_HUB_OFFLINE"] = "1"
    sources = _sources_by_path([*read_only, *(Given(path, path) for path in writable)])
    both = _without_repetition([given.path for given in read_only], writable, sources)
    for path in (*both[0], *both[1]):
        _require_mountable(path)
    elsewhere = {path: sources[path] for path in (*both[0], *both[1]) if sources[path] != path}
    return ContainerNeeds(*both, network=hub.network, environment=environment, sources=elsewhere)


def slide_folders(job: Job, known: Collection[Path] = ()) -> list[Given]:
    """The folders in which slides lie, and those to which links in them lead.

    Args:
        job: the job.
        known: folders that the container is given anyway, under their own paths.
    """
    ways: dict[Path, list[tuple[str, ...]]] = {}
    for source in job.slides.values():
        root = job.settings.wsi_dir or source.path.parent
        ways.setdefault(root, []).append(source.path.relative_to(root).parts)
    return list(dict.fromkeys(given for root, below in ways.items() for given in given_folders(root, below, known)))


@dataclass
class _HubNeeds:
    files: list[Given]
    """Weights that the user has named, and what lies beside them."""
    registry: Path | None = None
    cache: Path | None = None
    network: bool = False


def _hub_needs(job: Job) -> _HubNeeds:
    needs = _HubNeeds([])
    for source, given in _sources(job):
        found = weights.locate(source, given)
        if found is None:
            missing = bool(source.filenames) and source.repo_id is not None
        elif found.origin == "hub":
            missing = _lacks_companions(source)
            needs.cache = _hub_cache()
        else:
            missing = False
            needs.files += _files_of(found, source)
            if found.origin == "registry":
                needs.registry = _registry()
        if missing:
            needs.cache, needs.network = _hub_cache(), not _offline()
    return needs


def _sources(job: Job) -> Iterator[tuple[weights.WeightsSource, Path | None]]:
    """The models of the job whose weights are looked for, and the path that the user gave."""
    from trident.encoders.patch.registry import spec as patch_encoder_spec
    from trident.encoders.slide.registry import spec as slide_encoder_spec
    from trident.segmentation.spec import ARTIFACT_REMOVER, SPECS

    settings = job.settings
    if job.makes(SEGMENTATION):
        removes = settings.remove_artifacts or settings.remove_penmarks
        for name in (settings.segmenter, *([ARTIFACT_REMOVER] if removes else [])):
            if name in SPECS:
                yield SPECS[name], None
    if job.makes(PATCH_FEATURES):
        for name in job.patch_encoders:
            yield patch_encoder_spec(name), settings.patch_encoder_ckpt_path
    if job.slide_encoder is not None and job.makes(SLIDE_FEATURES):
        yield slide_encoder_spec(job.slide_encoder), None


def _lacks_companions(source: weights.WeightsSource) -> bool:
    """Whether files that belong to weights of the hub's cache, or code, would still be downloaded."""
    from trident.encoders.slide.spec import SlideEncoderSpec

    if not isinstance(source, SlideEncoderSpec):
        return False
    if source.remote_code:
        return True
    return any(weights.locate(replace(source, filenames=(name,))) is None for name in source.companions)


def _files_of(found: weights.WeightsFile, source: weights.WeightsSource) -> list[Given]:
    # A slide encoder, and an index of several files, read what lies beside the file that was named.
    if is_index(found.path) or source.weights_kind == "slide":
        path = absolute_path(found.path)
        return list(given_folders(path.parent, [(path.name,)]))
    return [given_file(found.path.absolute())]


def _registry() -> Path:
    """The registry of local weights that this process uses."""
    named = os.environ.get(weights.LOCAL_CKPTS_ENV)
    return absolute_path(Path(named) if named else Path(weights.__file__).with_name("local_ckpts.json"))


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return absolute_path(Path(HF_HUB_CACHE))


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _hub_access() -> dict[str, str]:
    names = [*_HUB_ACCESS, *(name.lower() for name in _HUB_ACCESS if name.endswith("_PROXY"))]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _made(folder: Path) -> Path:
    """The folder, which has to be there before it is mounted."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExecutorError(f"{folder}: cannot be made ({error.strerror}); make it, or choose another one") from error
    return folder


def _sources_by_path(given: Iterable[Given]) -> dict[Path, Path]:
    sources: dict[Path, Path] = {}
    for one in given:
        known = sources.setdefault(one.path, one.source)
        if known != one.source:
            raise ExecutorError(
                f"{one.path}: in a container, links would lead there both to {known} and to {one.source}; give "
                "--wsi_dir without a link in its path, or run with --executor process"
            )
    return sources


def _without_repetition(
    read_only: Iterable[Path], writable: Iterable[Path], sources: Mapping[Path, Path]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Without those that are seen anyway: below another of their kind, with none of the other kind in between."""
    kinds = dict.fromkeys(read_only, False) | dict.fromkeys(writable, True)
    kept: dict[Path, bool] = {}
    for path in sorted(kinds, key=lambda one: len(one.parts)):
        above = next((other for other in path.parents if other in kept), None)
        if (
            above is None
            or kept[above] != kinds[path]
            or not _is_same(sources[above] / path.relative_to(above), sources[path])
        ):
            kept[path] = kinds[path]
    return tuple(path for path in kept if not kept[path]), tuple(path for path in kept if kept[path])


def _is_same(one: Path, other: Path) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _require_mountable(path: Path) -> None:
    hides = path in _ABOVE_THESE or path == _SHARED_MEMORY
    if hides or (_is_below(path, _OF_THE_IMAGE) and _SHARED_MEMORY not in path.parents):
        raise ExecutorError(
            f"{path}: a container has a folder of its own there; put slides, weights and outputs into another folder, "
            "or run with --executor process"
        )
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExecutorError(
            f"{str(path)!r}: container engines take only names in UTF-8; rename it, or run with --executor process"
        ) from error


def _is_below(path: Path, folders: Collection[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)
