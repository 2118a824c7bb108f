"""Where every output of a job lies. Pure path arithmetic; names are fixed by the output contract (docs/outputs.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRIVATE_DIR = ".trident"
"""Folder under the job directory for our own bookkeeping (job files, guards); no downstream reader looks into it."""


_FEATURE_LABELS = {
    "patch_features": "feats",
    "slide_features": "slide_features",
    "patient_features": "patient_features",
}


def format_magnification(magnification: float) -> str:
    """`20.0` -> "20", `2.5` -> "2.5"."""
    return f"{magnification:g}"


def format_mpp(mpp: float) -> str:
    """`1.0` -> "1", `0.2528` -> "0.2528": all digits that a user would type."""
    return f"{mpp:.12g}"


def grid_name(
    magnification: float | None, patch_size_px: int, overlap_px: int, *, target_mpp: float | None = None
) -> str:
    """Name of the grid directory, e.g. `20x_256px_0px_overlap`; by µm/px `0.5mpp_256px_0px_overlap`.

    Args:
        magnification: of the patches; not used, and may be None, where `target_mpp` is given.
        patch_size_px: side of a patch.
        overlap_px: overlap of neighbours.
        target_mpp: µm/px of the patches, where the grid is laid by it.
    """
    if target_mpp is not None:
        scale = f"{format_mpp(target_mpp)}mpp"
    elif magnification is not None:
        scale = f"{format_magnification(magnification)}x"
    else:
        raise ValueError("a grid has a magnification or a target µm/px")
    return f"{scale}_{patch_size_px}px_{overlap_px}px_overlap"


def _file_label(encoder: str) -> str:
    """An encoder's name as part of a file name: `timm/resnet18` -> "timm_resnet18"."""
    return encoder.replace("/", "_")


@dataclass(frozen=True)
class JobLayout:
    """Paths of one job directory and, where `grid` is given, of one patch grid in it.

    `grid` is the name or (nested or absolute) path of the grid directory; `--coords_dir` may put it elsewhere.
    """

    job_dir: Path
    grid: str

    @property
    def grid_dir(self) -> Path:
        """Directory of this patch grid."""
        return self.job_dir / self.grid

    @property
    def private_dir(self) -> Path:
        """Our own bookkeeping."""
        return self.job_dir / PRIVATE_DIR

    @property
    def states_dir(self) -> Path:
        """One JSON state file a slide."""
        return self.job_dir / "wsi_states"

    @property
    def runs_dir(self) -> Path:
        """One JSON manifest a run."""
        return self.job_dir / "runs"

    @property
    def summary(self) -> Path:
        """The summary that every run appends to."""
        return self.job_dir / "summary.md"

    def thumbnail(self, slide: str) -> Path:
        """The slide, longest side 1000 px."""
        return self.job_dir / "thumbnails" / f"{slide}.jpg"

    def contours_image(self, slide: str) -> Path:
        """Thumbnail with tissue outlines."""
        return self.job_dir / "contours" / f"{slide}.jpg"

    def tissue(self, slide: str) -> Path:
        """Tissue polygons (GeoJSON): the output of the segmentation stage."""
        return self.job_dir / "contours_geojson" / f"{slide}.geojson"

    def coords(self, slide: str) -> Path:
        """Patch coordinates (HDF5): the output of the coordinates stage."""
        return self.grid_dir / "patches" / f"{slide}_patches.h5"

    def coords_image(self, slide: str) -> Path:
        """Thumbnail with the kept patches."""
        return self.grid_dir / "visualization" / f"{slide}.jpg"

    def patch_images_dir(self, slide: str) -> Path:
        """Folder of dumped patch images."""
        return self.grid_dir / "patch_images" / slide

    def patch_features_dir(self, patch_encoder: str) -> Path:
        """Folder of one encoder's patch features."""
        return self.grid_dir / f"features_{_file_label(patch_encoder)}"

    def patch_features(self, slide: str, patch_encoder: str) -> Path:
        """Patch features (HDF5): the output of the patch-feature stage."""
        return self.patch_features_dir(patch_encoder) / f"{slide}.h5"

    def slide_features_dir(self, slide_encoder: str) -> Path:
        """Folder of one slide encoder's embeddings."""
        return self.grid_dir / f"slide_features_{_file_label(slide_encoder)}"

    def slide_features(self, slide: str, slide_encoder: str) -> Path:
        """Slide embedding (HDF5): the output of the slide-embedding stage."""
        return self.slide_features_dir(slide_encoder) / f"{slide}.h5"

    def patient_features_dir(self, slide_encoder: str) -> Path:
        """Folder of one slide encoder's patient vectors."""
        return self.grid_dir / f"patient_features_{_file_label(slide_encoder)}"

    def patient_features(self, patient: str, slide_encoder: str) -> Path:
        """One vector for a patient (HDF5)."""
        return self.patient_features_dir(slide_encoder) / f"{patient}.h5"

    def stage_config(self, stage: str) -> Path:
        """Settings of a stage, by state key: `segmentation`, `coords`, `patch_features:X`, …"""
        folder, label = self._stage_label(stage)
        return folder / f"_config_{label}.json"

    def stage_log(self, stage: str) -> Path:
        """One line a slide for a stage."""
        folder, label = self._stage_label(stage)
        return folder / f"_logs_{label}.txt"

    def _stage_label(self, stage: str) -> tuple[Path, str]:
        kind, _, encoder = stage.partition(":")
        if kind == "segmentation":
            return self.job_dir, "segmentation"
        if kind == "coords":
            return self.grid_dir, "coords"
        return self.grid_dir, f"{_FEATURE_LABELS[kind]}_{_file_label(encoder)}"
