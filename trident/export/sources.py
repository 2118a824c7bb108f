"""Which features of a job directory are meant, and which slides have them. Light: no file is opened."""

from __future__ import annotations

import difflib
import os
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trident.errors import SettingsError, StoreError
from trident.slides.registry import slide_name
from trident.store.atomic import store_error
from trident.store.layout import JobLayout
from trident.viz.report.grids import find_grids, told_unreadable

Kind = Literal["patch", "slide"]

_SUFFIX = ".h5"
_PREFIXES: dict[Kind, str] = {"patch": "features_", "slide": "slide_features_"}


@dataclass(frozen=True)
class FeatureSet:
    """The features of one encoder on one patch grid.

    Attributes:
        job_dir: the job directory.
        grid: name or path of the grid directory, as `JobLayout` takes it.
        kind: of patches, or of whole slides.
        folder: where the files are.
    """

    job_dir: Path
    grid: str
    kind: Kind
    folder: Path

    @property
    def encoder(self) -> str:
        """The encoder's name as the folder has it: that of `timm/resnet18` is `timm_resnet18`."""
        return self.folder.name.removeprefix(_PREFIXES[self.kind])

    @property
    def layout(self) -> JobLayout:
        """Paths of the grid's other outputs."""
        return JobLayout(self.job_dir, self.grid)

    def file(self, slide: str) -> Path:
        """The features of a slide."""
        return self.folder / f"{slide}{_SUFFIX}"

    def slides(self) -> list[str]:
        """Names of the slides that have features, sorted.

        Raises:
            StoreError: the folder cannot be listed.
        """
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if _is_output(entry.name)]
        except OSError as error:
            raise store_error(self.folder, error, "listed") from error
        return sorted(name.removesuffix(_SUFFIX) for name in names)

    def slide(self, asked: str) -> str:
        """Name of the slide that a user means by its name, or by the path of its file.

        Raises:
            SettingsError: it has no features; the message offers names that are close.
        """
        for name in (asked, slide_name(asked)):
            if os.sep not in name and self.file(name).is_file():
                return name
        close = difflib.get_close_matches(slide_name(asked), self.slides(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "name a slide as its output is named, without `.h5`"
        raise SettingsError(f"{self.folder}: no features of a slide {asked!r}; {hint}")


def choose_features(job_dir: Path, kind: Kind, *, grid: str | None = None, encoder: str | None = None) -> FeatureSet:
    """The features that are meant; what is not given is chosen where there is only one.

    Args:
        job_dir: the job directory, ours or TRIDENT's.
        kind: of patches or of slides.
        grid: grid directory, relative to the job directory or absolute.
        encoder: its name.

    Raises:
        StoreError: no such job directory, or no such features in it.
        SettingsError: there are several; the message lists them.
    """
    found = _matching(find_features(job_dir, kind, grid), encoder)
    option = f"--{kind}_encoder"
    if not found:
        others = ", ".join(_option_text(one) for one in find_features(job_dir, kind, None)) or "none"
        what = " ".join(
            [f"no {kind} features", *([f"of {encoder}"] if encoder else []), *([f"on grid {grid}"] if grid else [])]
        )
        raise StoreError(f"{job_dir}: {what} (there: {others}); run --task feat first, or name others")
    if len(found) > 1:
        listed = "; ".join(_option_text(one) for one in found)
        raise SettingsError(f"{job_dir}: several {kind} features; choose with --grid and {option}: {listed}")
    return found[0]


def find_features(job_dir: Path, kind: Kind, grid: str | None = None) -> list[FeatureSet]:
    """Every folder with features, sorted.

    Args:
        job_dir: the job directory.
        kind: of patches or of slides.
        grid: look at this grid only.

    Raises:
        StoreError: no such job directory, or it cannot be listed.
    """
    if not job_dir.is_dir():
        raise StoreError(f"{job_dir}: no such job directory; name the --job_dir of a run")
    try:
        grids: Sequence[str] = find_grids(job_dir, None) if grid is None else [grid]
        return [
            FeatureSet(job_dir, name, kind, folder)
            for name in grids
            for folder in sorted(JobLayout(job_dir, name).grid_dir.glob(f"{_PREFIXES[kind]}*"))
            if folder.is_dir() and any(_is_output(file) for file in os.listdir(folder))  # noqa: PTH208 - names suffice
        ]
    except OSError as error:
        raise store_error(Path(error.filename or job_dir), error, "listed") from error


def choose_grid(job_dir: Path, grid: str | None, asked: str) -> tuple[str, str]:
    """(grid that has coordinates of a slide, where only one has; name of the slide).

    Args:
        job_dir: the job directory.
        grid: look at this grid only.
        asked: the slide by its name, or by the path of its file.

    Raises:
        StoreError: no such job directory, it cannot be listed, or no grid has them.
        SettingsError: several have.
    """
    if not job_dir.is_dir():
        raise StoreError(f"{job_dir}: no such job directory; name the --job_dir of a run")
    try:
        grids = find_grids(job_dir, None) if grid is None else [grid]
    except OSError as error:
        raise store_error(Path(error.filename or job_dir), error, "listed") from error
    for slide in dict.fromkeys((asked, slide_name(asked))):
        having = [name for name in grids if os.sep not in slide and _is_file(JobLayout(job_dir, name).coords(slide))]
        if len(having) == 1:
            return having[0], slide
        if having:
            listed = ", ".join(f"--grid {shlex.quote(name)}" for name in having)
            raise SettingsError(f"{job_dir}: several grids have slide {slide!r}; choose one: {listed}")
    raise StoreError(
        f"{job_dir}: no coordinates of a slide {slide_name(asked)!r} on {grid or 'any grid'}; run --task coords"
    )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except ValueError:  # no file can have such a name
        return False
    except OSError as error:
        told_unreadable(path, error)
        return False


def _matching(found: list[FeatureSet], encoder: str | None) -> list[FeatureSet]:
    if encoder is None:
        return found
    label = {
        "patch": lambda one: one.layout.patch_features_dir(encoder).name,
        "slide": lambda one: one.layout.slide_features_dir(encoder).name,
    }
    return [one for one in found if one.folder.name == label[one.kind](one)]


def _option_text(one: FeatureSet) -> str:
    return f"--grid {shlex.quote(one.grid)} --{one.kind}_encoder {shlex.quote(one.encoder)}"


def _is_output(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(".")
