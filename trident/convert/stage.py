"""One file to one pyramidal TIFF, as a stage: the same lock, recipe check and log as the stages of the pipeline."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trident.convert.levels import TILE_PX, level_sizes, needs_bigtiff
from trident.convert.options import ConvertOptions
from trident.errors import NotAvailableError, StoreError, UnreadableSlideError
from trident.slides.discovery import SlideSource
from trident.stages.base import Progress, Stage, StageContext, StageResult
from trident.store.atomic import atomic_path, store_error
from trident.store.layout import JobLayout
from trident.store.recipes import Recipe, sha256_of

CONVERT = "convert"
"""Kind of this stage."""


@dataclass(frozen=True)
class ConvertLayout(JobLayout):
    """Paths in a directory of converted files; it has no patch grid."""

    grid: str = ""

    def pyramid(self, slide: str) -> Path:
        """The pyramidal TIFF."""
        return self.job_dir / f"{slide}.tiff"

    @property
    def summary_table(self) -> Path:
        """One row for each file of the latest run."""
        return self.job_dir / "convert_summary.csv"

    @property
    def converted_list(self) -> Path:
        """The TIFFs that are good after the latest run, in the form of `--custom_list_of_wsis`."""
        return self.job_dir / "converted.csv"

    def _stage_label(self, stage: str) -> tuple[Path, str]:
        return self.job_dir, stage


class ConvertStage(Stage):
    """The pyramidal TIFF of one file.

    Args:
        options: of the conversion.
        source: the file.
        overwrite_run: with `--overwrite`, the run that outputs must come from to count as done.
    """

    kind = CONVERT

    def __init__(self, options: ConvertOptions, source: SlideSource, overwrite_run: str | None = None) -> None:
        layout = ConvertLayout(options.job_dir)
        super().__init__(StageContext(layout, frozenset({CONVERT}), overwrite_run=overwrite_run), source)
        self.options = options
        self._pyramid = layout.pyramid(source.name)

    def usual_output(self) -> Path:
        """`<name>.tiff` in the job directory."""
        return self._pyramid

    @property
    def needs(self) -> None:
        """Nothing."""
        return

    def settings(self) -> dict[str, Any]:
        """What shapes the TIFF."""
        return {
            **self.mpp_settings(),
            "downscale_by": self.options.downscale_by,
            "quality": self.options.quality,
            "bigtiff": "always" if self.options.bigtiff else "where needed",
            "tile_px": TILE_PX,
        }

    def inputs(self) -> dict[str, str]:
        """The file, by its size."""
        return self.slide_inputs()

    def read_recipe(self) -> Recipe | None:
        """See `trident.convert.pyramid.read_recipe`."""
        from trident.convert.pyramid import read_recipe

        return read_recipe(self.output)

    def content_digest(self) -> str:
        """Digest of the file's bytes."""
        return sha256_of(self.output)

    def produce(self, progress: Progress) -> StageResult:
        """Convert the file.

        Raises:
            NotAvailableError: libvips does not load.
            TridentError: the file cannot be read, or the TIFF not be written.
        """
        try:
            import pyvips
        except (ImportError, OSError) as error:
            raise NotAvailableError(f"libvips does not load ({error}); pip install 'trident-luigi[convert]'") from error
        _require_utf8(self.source.path, self.output)
        from trident.convert.pyramid import shrunk, write_pyramid
        from trident.convert.source import opened, reading_error

        factor = self.options.downscale_by
        with opened(self.source, threads=pyvips.concurrency_get()) as found, atomic_path(self.output) as temporary:
            image = shrunk(found.image, factor, self.source.path)
            mpp = found.mpp * factor
            sizes = level_sizes(image.width, image.height)
            facts = {
                "source": self.source.rel_path,
                "mpp": mpp,
                "mpp_source": found.mpp_source,
                "width_px": image.width,
                "height_px": image.height,
                "levels": len(sizes),
                "bigtiff": self.options.bigtiff or needs_bigtiff(image.width, image.height),
                "reader": found.reader,
                "notes": found.notes,
            }
            try:
                write_pyramid(
                    image,
                    temporary,
                    mpp=mpp,
                    quality=self.options.quality,
                    profile=found.profile,
                    bigtiff=bool(facts["bigtiff"]),
                    recipe=self.wanted_recipe(**facts),
                )
            except pyvips.Error as error:
                if found.failure is None and _is_about_writing(str(error)):
                    raise _writing_error(self.output, str(error)) from error
                raise reading_error(self.source.path, error, found) from (found.failure or error)
            n_bytes = temporary.stat().st_size
        return StageResult(_message(facts, n_bytes, found.notes), {"output": self.output}, notes=list(found.notes))


def _require_utf8(source: Path, output: Path) -> None:
    """Refuse names for which libvips has no way to say them."""
    for path in (source, output):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            shown = Path(os.fsencode(source).decode(errors="backslashreplace"))
            raise UnreadableSlideError(
                shown, "its path is not UTF-8, and libvips takes no other; rename it (or its folder, or --job_dir)"
            ) from None


def _message(facts: dict[str, Any], n_bytes: int, notes: Sequence[str]) -> str:
    size = f"{facts['width_px']} x {facts['height_px']} px, {facts['levels']} levels, {facts['mpp']:g} µm/px"
    return "; ".join([f"{size}, {n_bytes / 1e6:.1f} MB, read by {facts['reader']}", *notes])


def _is_about_writing(text: str) -> bool:
    """Whether an error of libvips is about the file that it writes."""
    return "write error" in text or "wbuffer_write" in text


def _writing_error(output: Path, text: str) -> StoreError:
    """One line for an error of libvips, which names the system's reason on one of many lines."""
    found = re.search(r"system error: (.+)", text)
    reason = found[1].strip() if found else " ".join(text.split())
    code = next((number for number in errno.errorcode if os.strerror(number) == reason), None)
    return store_error(output, OSError(reason) if code is None else OSError(code, reason))
