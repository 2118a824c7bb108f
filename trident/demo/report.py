"""Where a job's outputs are, and a table of what they hold, read from the files themselves.

Reads HDF5 and GeoJSON directly rather than through `trident.store`: it shows what any downstream reader finds.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py

from trident.errors import StoreError

_FOLDERS = (
    ("thumbnails", "each slide, longest side 1000 px"),
    ("contours", "thumbnails with the tissue outlines"),
    ("contours_geojson", "tissue outlines, to open or edit in QuPath"),
)


def report(job_dir: Path | str) -> str:
    """Text that says where the outputs of `job_dir` are and counts them, one row a slide and patch grid.

    Raises:
        StoreError: the folder is missing or holds no output, or one of its files is damaged.
    """
    job = Path(job_dir)
    if not job.is_dir():
        raise StoreError(f"{job}: no such job directory; run a job into it first")
    tissue = {file.name.removesuffix(".geojson"): file for file in sorted(job.glob("contours_geojson/*.geojson"))}
    grids = sorted(folder.parent for folder in job.glob("*/patches") if folder.is_dir())
    if not tissue and not grids:
        raise StoreError(f"{job}: holds no tissue outlines and no patches; run a job into it first")
    sections = [_where(job, grids)]
    if not grids:
        rows = [["slide", "tissue pieces"], *([slide, str(_pieces(file))] for slide, file in tissue.items())]
        sections.append(_table(rows))
    sections.extend(_grid_section(grid, tissue) for grid in grids)
    return "\n".join(sections)


def _where(job: Path, grids: list[Path]) -> str:
    """The folders that exist, and what each holds."""
    lines = [(job / name, text) for name, text in _FOLDERS]
    for grid in grids:
        lines.append((grid / "patches", "patch coordinates (HDF5)"))
        lines.append((grid / "visualization", "thumbnails with the patches"))
        lines.extend((folder, "patch features (HDF5)") for folder in sorted(grid.glob("features_*")))
        lines.extend((folder, "slide embeddings (HDF5)") for folder in sorted(grid.glob("slide_features_*")))
    lines.append((job / "summary.md", "every run, with its counts"))
    present = [(path.relative_to(job).as_posix(), text) for path, text in lines if path.exists()]
    width = max((len(path) for path, _ in present), default=0)
    listing = "".join(f"  {path:<{width}}  {text}\n" for path, text in present)
    return f"Outputs are in {job.resolve()}\n{listing}"


def _grid_section(grid: Path, tissue: dict[str, Path]) -> str:
    patch_folders, slide_folders = sorted(grid.glob("features_*")), sorted(grid.glob("slide_features_*"))
    rows = [["slide", "tissue pieces", "patches", *(folder.name for folder in [*patch_folders, *slide_folders])]]
    slides = {file.name.removesuffix("_patches.h5") for file in grid.glob("patches/*_patches.h5")} | set(tissue)
    for slide in sorted(slides):
        row = [slide, str(_pieces(tissue[slide])) if slide in tissue else "-"]
        coords = _shape(grid / "patches" / f"{slide}_patches.h5", "coords")
        row.append("-" if coords is None else str(coords[0]))
        for folder in [*patch_folders, *slide_folders]:
            shape = _shape(folder / f"{slide}.h5", "features")
            row.append("-" if shape is None else " x ".join(str(side) for side in shape))
        rows.append(row)
    return f"{grid.name}\n{_table(rows)}"


def _pieces(geojson: Path) -> int:
    """Number of tissue outlines in a GeoJSON FeatureCollection."""
    try:
        return len(json.loads(geojson.read_text(encoding="utf-8"))["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{geojson}: is not a GeoJSON FeatureCollection; delete it and run the job again") from error


def _shape(path: Path, dataset: str) -> tuple[int, ...] | None:
    """Shape of one dataset; None where the file does not exist."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            return tuple(int(side) for side in file[dataset].shape)
    except (OSError, KeyError) as error:
        raise StoreError(f"{path}: has no readable `{dataset}`; delete it and run the job again") from error


def _table(rows: list[list[str]]) -> str:
    """Columns wide enough for their longest entry: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in [rows[0], ["-" * width for width in widths], *rows[1:]]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
