"""What an output was made with, kept inside the output, and whether that is what is wanted now.

A recipe has *settings* (what the user asked for), *inputs* (digests of the files that the output was made from) and
*facts* (recorded for people, never compared). Changed settings stop a slide; changed inputs mean that it is redone.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from trident.errors import StoreError
from trident.store.atomic import store_error

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"
Difference: TypeAlias = "tuple[str, JSON, JSON]"
"""(key, found, wanted); keys inside a nested setting are joined by dots."""

RECIPE_KEY = "trident_recipe"
"""Name of the HDF5 attribute and of the GeoJSON member that hold a recipe."""

_VERSION = 1
_BLOCK_BYTES = 1 << 20


class VerdictKind(enum.Enum):
    """How an existing output relates to what is wanted."""

    FOREIGN = "foreign"
    """It carries no recipe (another tool, or an editor, wrote it): accepted as it is."""
    SAME = "same"
    STALE = "stale"
    """Same settings, but a file that it was made from has changed: redo it."""
    DIFFERENT = "different"
    """Made with other settings: only `--overwrite` may replace it."""


@dataclass(frozen=True)
class Recipe:
    """What shapes one output.

    Attributes:
        stage: `segmentation`, `coords`, `patch_features:<encoder>` or `slide_features:<encoder>`.
        settings: options that shape the output; compared.
        inputs: name of an input -> its digest; compared.
        facts: version, reader, host and the like; recorded, never compared.
    """

    stage: str
    settings: Mapping[str, JSON] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, JSON] = field(default_factory=dict)

    def to_dict(self) -> dict[str, JSON]:
        """The recipe as a JSON object."""
        return {
            "recipe_version": _VERSION,
            "stage": self.stage,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "facts": dict(self.facts),
        }

    def to_json(self) -> str:
        """The recipe as one line of ASCII JSON.

        Raises:
            StoreError: a value has no JSON form.
        """
        try:
            return json.dumps(self.to_dict(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the recipe of stage {self.stage} has no JSON form ({error}); please report it"
            ) from error

    @classmethod
    def from_dict(cls, value: object, source: Path) -> Recipe:
        """Read a recipe that was found in `source`.

        Raises:
            StoreError: it is damaged, or of a version that is not known here.
        """
        if not isinstance(value, Mapping):
            raise _damaged(source, "it is not an object")
        version = value.get("recipe_version")
        if version != _VERSION:
            raise _damaged(source, f"its version is {version!r}, and this program knows version {_VERSION}")
        stage = value.get("stage")
        if not isinstance(stage, str):
            raise _damaged(source, "it names no stage")
        parts = {key: value.get(key, {}) for key in ("settings", "inputs", "facts")}
        for key, part in parts.items():
            if not isinstance(part, Mapping):
                raise _damaged(source, f"its {key!r} is not an object")
        if not all(digest is None or isinstance(digest, str) for digest in parts["inputs"].values()):
            raise _damaged(source, "a digest in it is not a text")
        return cls(stage, **{key: dict(part) for key, part in parts.items()})

    @classmethod
    def from_json(cls, text: str, source: Path) -> Recipe:
        """Read a recipe from JSON that was found in `source`; errors as in `from_dict`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _damaged(source, "it is not JSON") from error
        return cls.from_dict(value, source)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison."""

    kind: VerdictKind
    differences: tuple[Difference, ...] = ()

    def describe(self) -> str:
        """One line: which keys differ, as `segmenter: otsu -> hest`."""
        if self.differences:
            return ", ".join(f"{key}: {_brief(found)} -> {_brief(wanted)}" for key, found, wanted in self.differences)
        return "no recipe, accepted as it is" if self.kind is VerdictKind.FOREIGN else "same recipe"


def compare(found: Recipe | None, wanted: Recipe) -> Verdict:
    """Compare the recipe in an output with the wanted one.

    Keys that one side does not know (absent or None) are not a difference: versions add keys, and a digest may not be
    known yet. Numbers compare as floats.
    """
    if found is None:
        return Verdict(VerdictKind.FOREIGN)
    stages: list[Difference] = [] if found.stage == wanted.stage else [("stage", found.stage, wanted.stage)]
    settings = tuple(stages + list(_differences(found.settings, wanted.settings)))
    if settings:
        return Verdict(VerdictKind.DIFFERENT, settings)
    inputs = tuple(_differences(found.inputs, wanted.inputs))
    return Verdict(VerdictKind.STALE, inputs) if inputs else Verdict(VerdictKind.SAME)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes as `sha256:<hex>`, read in blocks.

    Raises:
        StoreError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise store_error(path, error, "read") from error
    return f"sha256:{digest.hexdigest()}"


def _differences(found: Mapping[str, JSON], wanted: Mapping[str, JSON], prefix: str = "") -> Iterator[Difference]:
    for key, new in wanted.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old is not None and new is not None and not _equal(old, new):
            yield f"{prefix}{key}", old, new


def _equal(one: JSON, other: JSON) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return not any(_differences(one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(one) == float(other)
    if isinstance(one, Sequence) and isinstance(other, Sequence):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _brief(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=list)
    kind, colon, digest = text.partition(":")
    return f"{kind}:{digest[:12]}" if colon and kind == "sha256" else text


def _damaged(source: Path, why: str) -> StoreError:
    return StoreError(f"{source}: the recipe in this file cannot be used: {why}; use --overwrite to make the file anew")
