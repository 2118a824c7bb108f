"""Where a model's weights come from: a given path, the registry of local weights, the hub. No torch is imported here.

The first of these that applies is used, and the next ones are not tried:

1. the path that the user gave: a file, or a folder that holds the file under its published name;
2. the registry of local weights: the JSON file named by TRIDENT_LOCAL_CKPTS, else the one in this package;
3. the hub's cache, and then the hub itself (HF_TOKEN and HF_HUB_OFFLINE are honoured).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from trident.encoders.checkpoint import CHECKPOINT_SUFFIXES, load_checkpoint
from trident.encoders.names import explain_unknown
from trident.encoders.shards import is_index, shard_names, shard_paths
from trident.errors import SettingsError, WeightsError

__all__ = ["LOCAL_CKPTS_ENV", "WeightsFile", "WeightsSource", "fetch", "load_checkpoint", "locate", "sha256_of"]

LOCAL_CKPTS_ENV = "TRIDENT_LOCAL_CKPTS"
"""Environment variable that names a registry of local weights to use in place of the packaged one."""

_PACKAGED_REGISTRY = Path(__file__).with_name("local_ckpts.json")
_BLOCK_BYTES = 1 << 22
_SECTIONS = {"patch": "patch encoder", "slide": "slide encoder", "segmentation": "segmentation model"}
"""Sections of a registry of local weights, and what each lists."""


class WeightsSource(Protocol):
    """What has to be known about a model to find its weights; every encoder's declaration says it."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def repo_id(self) -> str | None:
        """Hub repository, or None where the model has no weights there; one of data sets begins with `datasets/`."""

    @property
    def filenames(self) -> tuple[str, ...]:
        """Published names of the file, best first; empty where the model has no weights."""

    @property
    def weights_kind(self) -> str:
        """Section of the registry of local weights: "patch", "slide" or "segmentation"."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights on this machine."""

    path: Path
    origin: Literal["given", "registry", "hub"]
    shards: tuple[Path, ...] = ()
    """Where `path` is an index: the files with the tensors that the model needs."""

    @property
    def sha256(self) -> str:
        """Digest of the file, hexadecimal; see `sha256_of`. Of several files, the digest of their digests."""
        if not self.shards:
            return sha256_of(self.path)
        return hashlib.sha256("".join(sha256_of(shard) for shard in self.shards).encode()).hexdigest()


def locate(source: WeightsSource, weights_path: Path | str | None = None) -> WeightsFile | None:
    """Find the weights on this machine, without any network.

    Returns:
        The file; None where the model has no weights, or where they are still to be downloaded.

    Raises:
        WeightsError: the given path or the registry's path is wrong, or the registry is damaged.
        SettingsError: a path is given for a model that has no weights.
    """
    if not source.filenames:
        if weights_path is not None:
            raise SettingsError(f"{source.name} has no weights, so it cannot load {weights_path}; leave the path out")
        return None
    if weights_path is not None:
        return _file(_resolve(Path(weights_path).expanduser(), source, "the given path"), "given", source)
    registered = _registered_path(source)
    if registered is not None:
        return registered
    if source.repo_id is None:  # published elsewhere, or the user's own
        return None
    return _cached_file(source, source.repo_id)


def fetch(source: WeightsSource, weights_path: Path | str | None = None) -> WeightsFile | None:
    """Like `locate`, but downloads what is not on this machine yet; None only where the hub has no weights of it.

    Raises:
        WeightsError: as `locate`; also no network, no access to a gated repository, or no such file there.
        SettingsError: a path is given for a model that has no weights.
    """
    found = locate(source, weights_path)
    if found is not None or source.repo_id is None:
        return found
    filename, path = _download(source, source.repo_id, source.filenames)
    if is_index(path):
        for shard in shard_names(path, _needed(source)):
            _download(source, source.repo_id, (_beside(filename, shard),))
    return _file(path, "hub", source)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks; remembered in this process while size and time stay the same.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        facts = path.stat()
        return _sha256(path.resolve(), facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


@lru_cache(maxsize=256)
def _sha256(path: Path, _size_bytes: int, _modified_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _file(path: Path, origin: Literal["given", "registry", "hub"], source: WeightsSource) -> WeightsFile:
    return WeightsFile(path, origin, shard_paths(path, _needed(source)) if is_index(path) else ())


def _needed(source: WeightsSource) -> tuple[str, ...]:
    """Prefixes of the tensors that the model needs, where its declaration says so; else none: it needs all."""
    prefixes: tuple[str, ...] = getattr(source, "needed_weights", ())
    return prefixes


def _beside(filename: str, shard: str) -> str:
    """The hub's name of a file in the folder of `filename`."""
    return str(PurePosixPath(filename).with_name(shard))


def _repository(repo_id: str) -> tuple[str, str]:
    """The hub's identifier and kind of a repository, as its address spells them."""
    if repo_id.startswith("datasets/"):
        return repo_id.removeprefix("datasets/"), "dataset"
    return repo_id, "model"


def _cached_file(source: WeightsSource, repo_id: str) -> WeightsFile | None:
    """The weights in the hub's cache; None also where one of several files is missing there."""
    for filename in source.filenames:
        path = _cached(repo_id, filename)
        if path is not None:
            shards = shard_names(path, _needed(source)) if is_index(path) else ()
            complete = all(_cached(repo_id, _beside(filename, shard)) for shard in shards)
            return _file(path, "hub", source) if complete else None
    return None


def _cached(repo_id: str, filename: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository, kind = _repository(repo_id)
    cached = try_to_load_from_cache(repository, filename, repo_type=kind)
    return Path(cached) if isinstance(cached, str) else None


def _resolve(path: Path, source: WeightsSource, whence: str) -> Path:
    """The file that `path` stands for: itself, or the file with a published name in that folder."""
    if path.is_dir():
        for filename in source.filenames:
            for candidate in (path / filename, path / Path(filename).name):
                if candidate.is_file():
                    return candidate
        raise WeightsError(
            f"{path}: this folder ({whence} of {source.name}'s weights) holds none of {', '.join(source.filenames)}; "
            "put the file there or name it directly"
        )
    if not path.exists():
        raise WeightsError(f"{path}: no such file ({whence} of {source.name}'s weights); correct the path")
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES and not (is_index(path) and path.name in source.filenames):
        raise WeightsError(
            f"{path}: {whence} of {source.name}'s weights must end in one of {', '.join(CHECKPOINT_SUFFIXES)}"
        )
    return path


def _registered_path(source: WeightsSource) -> WeightsFile | None:
    """The registry's entry for this model. A path that does not exist is an error, never a download."""
    named = os.environ.get(LOCAL_CKPTS_ENV)
    registry = Path(named).expanduser() if named else _PACKAGED_REGISTRY
    entries = _read_registry(registry)
    value = entries.get(source.weights_kind, {}).get(source.name)
    if not value:
        return None
    try:
        path = registry.parent / Path(value).expanduser()
        return _file(_resolve(path, source, f"the path in {registry}"), "registry", source)
    except (OSError, RuntimeError) as error:  # too long a name, or the home folder of nobody
        raise WeightsError(
            f"{registry}: the path of {source.name} cannot be used ({_first_line(error)}); correct it"
        ) from error


def _read_registry(registry: Path) -> dict[str, dict[str, str | None]]:
    """Read {"patch": {name: path}, "slide": ..., "segmentation": ...}; a flat {name: path} speaks of patch encoders.

    null and "" both mean: no local weights.
    """
    try:
        content = json.loads(registry.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{registry}: the registry of local weights cannot be read ({error.strerror}); correct {LOCAL_CKPTS_ENV}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{registry}: the registry of local weights is not valid JSON ({error}); mend it") from error
    shape = 'expected {"patch": {"uni_v1": "/path/to/weights.bin"}}'
    if not isinstance(content, dict):
        raise WeightsError(f"{registry}: the registry of local weights is not a JSON object; {shape}")
    sections = content if _SECTIONS.keys() & content.keys() else {"patch": content}
    for kind, entries in sections.items():
        if kind not in _SECTIONS or not isinstance(entries, dict):
            raise WeightsError(f"{registry}: section {kind!r} of the registry of local weights is wrong; {shape}")
        known = _known_names(kind)
        for name, value in entries.items():
            if name not in known:
                raise WeightsError(f"{registry}: {explain_unknown(_SECTIONS[kind], name, known)}; correct the entry")
            if value is not None and not isinstance(value, str):
                raise WeightsError(f"{registry}: the path of {name} is {value!r}; expected a string or null")
    return sections


def _known_names(kind: str) -> tuple[str, ...]:
    # Not at the top: the registries are for callers of this module, and it serves them.
    if kind == "patch":
        from trident.encoders.patch.registry import PATCH_ENCODER_NAMES

        return PATCH_ENCODER_NAMES
    if kind == "segmentation":
        from trident.segmentation.spec import SPECS

        return tuple(SPECS)
    from trident.encoders.slide.registry import SLIDE_ENCODER_NAMES

    return SLIDE_ENCODER_NAMES


def _download(source: WeightsSource, repo_id: str, filenames: tuple[str, ...]) -> tuple[str, Path]:
    """Download the first of these files that the repository has; its name there, and where it lies now."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    remedy = f"give the file with --patch_encoder_ckpt_path or a registry named by {LOCAL_CKPTS_ENV}"
    if source.weights_kind != "patch":
        remedy = f"give the file in a registry named by {LOCAL_CKPTS_ENV}"
    if source.weights_kind == "segmentation":
        remedy += " (section segmentation), or do without this model (--segmenter otsu needs no weights)"
    repository, kind = _repository(repo_id)
    for filename in filenames:
        what = f"{source.name}: weights {filename} of https://huggingface.co/{repo_id}"
        try:
            return filename, Path(hf_hub_download(repository, filename, repo_type=kind))
        except GatedRepoError as error:
            raise WeightsError(
                f"{what} are gated: ask for access on that page and set HF_TOKEN to a token that has it, or {remedy}"
            ) from error
        except RepositoryNotFoundError as error:
            raise WeightsError(
                f"{what}: the hub knows no such repository for this token: set HF_TOKEN if it is private, or {remedy}"
            ) from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise WeightsError(
                f"{what} are not on this machine, and the hub cannot be reached (no network, or HF_HUB_OFFLINE): "
                f"download them elsewhere, then {remedy}"
            ) from error
        except EntryNotFoundError:
            continue  # published under another of the names
        except (HfHubHTTPError, OSError) as error:
            raise WeightsError(f"{what}: the download failed ({_first_line(error)}); try again, or {remedy}") from error
    raise WeightsError(
        f"{source.name}: https://huggingface.co/{repo_id} holds none of {', '.join(filenames)}; {remedy}"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
