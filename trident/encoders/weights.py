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
from pathlib import Path
from typing import Literal, Protocol

from trident.encoders.checkpoint import CHECKPOINT_SUFFIXES, load_checkpoint
from trident.encoders.names import explain_unknown
from trident.errors import SettingsError, WeightsError

__all__ = ["LOCAL_CKPTS_ENV", "WeightsFile", "WeightsSource", "fetch", "load_checkpoint", "locate", "sha256_of"]

LOCAL_CKPTS_ENV = "TRIDENT_LOCAL_CKPTS"
"""Environment variable that names a registry of local weights to use in place of the packaged one."""

_PACKAGED_REGISTRY = Path(__file__).with_name("local_ckpts.json")
_BLOCK_BYTES = 1 << 22


class WeightsSource(Protocol):
    """What has to be known about a model to find its weights; every encoder's declaration says it."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def repo_id(self) -> str | None:
        """Hub repository, or None where the model has no weights there."""

    @property
    def filenames(self) -> tuple[str, ...]:
        """Names of the file in that repository, best first."""

    @property
    def weights_kind(self) -> str:
        """Section of the registry of local weights: "patch" or "slide"."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights on this machine."""

    path: Path
    origin: Literal["given", "registry", "hub"]

    @property
    def sha256(self) -> str:
        """Digest of the file, hexadecimal; see `sha256_of`."""
        return sha256_of(self.path)


def locate(source: WeightsSource, weights_path: Path | str | None = None) -> WeightsFile | None:
    """Find the weights on this machine, without any network.

    Returns:
        The file; None where the model has no weights, or where they are still to be downloaded.

    Raises:
        WeightsError: the given path or the registry's path is wrong, or the registry is damaged.
        SettingsError: a path is given for a model that has no weights.
    """
    if source.repo_id is None:
        if weights_path is not None:
            raise SettingsError(f"{source.name} has no weights, so it cannot load {weights_path}; leave the path out")
        return None
    if weights_path is not None:
        return WeightsFile(_resolve(Path(weights_path).expanduser(), source, "the given path"), "given")
    registered = _registered_path(source)
    if registered is not None:
        return registered
    from huggingface_hub import try_to_load_from_cache

    for filename in source.filenames:
        cached = try_to_load_from_cache(source.repo_id, filename)
        if isinstance(cached, str):
            return WeightsFile(Path(cached), "hub")
    return None


def fetch(source: WeightsSource, weights_path: Path | str | None = None) -> WeightsFile | None:
    """Like `locate`, but downloads what is not on this machine yet; None only where the model has no weights.

    Raises:
        WeightsError: as `locate`; also no network, no access to a gated repository, or no such file there.
        SettingsError: a path is given for a model that has no weights.
    """
    found = locate(source, weights_path)
    if found is not None or source.repo_id is None:
        return found
    return WeightsFile(_download(source, source.repo_id), "hub")


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
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
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
    path = registry.parent / Path(value).expanduser()
    return WeightsFile(_resolve(path, source, f"the path in {registry}"), "registry")


def _read_registry(registry: Path) -> dict[str, dict[str, str | None]]:
    """Read {"patch": {name: path}, "slide": {name: path}}; a flat {name: path} speaks of patch encoders.

    null and "" both mean: no local weights.
    """
    try:
        content = json.loads(registry.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{registry}: the registry of local weights cannot be read ({error.strerror}); correct {LOCAL_CKPTS_ENV}"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{registry}: the registry of local weights is not valid JSON ({error}); mend it") from error
    shape = 'expected {"patch": {"uni_v1": "/path/to/weights.bin"}}'
    if not isinstance(content, dict):
        raise WeightsError(f"{registry}: the registry of local weights is not a JSON object; {shape}")
    sections = content if {"patch", "slide"} & content.keys() else {"patch": content}
    for kind, entries in sections.items():
        if kind not in ("patch", "slide") or not isinstance(entries, dict):
            raise WeightsError(f"{registry}: section {kind!r} of the registry of local weights is wrong; {shape}")
        known = _known_names(kind)
        for name, value in entries.items():
            if name not in known:
                raise WeightsError(f"{registry}: {explain_unknown(f'{kind} encoder', name, known)}; correct the entry")
            if value is not None and not isinstance(value, str):
                raise WeightsError(f"{registry}: the path of {name} is {value!r}; expected a string or null")
    return sections


def _known_names(kind: str) -> tuple[str, ...]:
    # Not at the top: the registries are for callers of this module, and it serves them.
    if kind == "patch":
        from trident.encoders.patch.registry import PATCH_ENCODER_NAMES

        return PATCH_ENCODER_NAMES
    from trident.encoders.slide.registry import SLIDE_ENCODER_NAMES

    return SLIDE_ENCODER_NAMES


def _download(source: WeightsSource, repo_id: str) -> Path:
    """Download the first published file that the repository has."""
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
    for filename in source.filenames:
        what = f"{source.name}: weights {filename} of https://huggingface.co/{repo_id}"
        try:
            return Path(hf_hub_download(repo_id, filename))
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
        f"{source.name}: https://huggingface.co/{repo_id} holds none of {', '.join(source.filenames)}; {remedy}"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
