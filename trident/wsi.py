"""One slide with everything that can be done to it: the Python interface that users of TRIDENT know.

Each method is thin over a stage of the pipeline, so what it writes is what a job writes. It always computes, and
replaces the file that was there; `trident.processor.Processor` skips what is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trident.errors import StoreError
from trident.given_models import (
    USUAL_SEGMENTATION_MAG,
    check_patch_encoder,
    check_saveas,
    check_slide_encoder,
    place_artifact_remover,
    place_segmenter,
    usable_device,
)
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES
from trident.lazy_slide import LazySlide, PathLike
from trident.stages.base import Progress, Stage, StageContext
from trident.stages.coords import CoordsStage, GridOptions
from trident.stages.features import PatchFeaturesStage, SlideFeaturesStage, settings_of_model
from trident.stages.segmentation import SegmentationStage
from trident.store.layout import JobLayout
from trident.store.locks import OutputLock

if TYPE_CHECKING:
    import torch
    from shapely.geometry import Polygon

    from trident.encoders.patch.base import PatchEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.segmentation.base import Segmenter
    from trident.segmentation.neural import NeuralSegmenter

logger = logging.getLogger(__name__)


class WSI(LazySlide):
    """A whole-slide image: metadata and pixels (`LazySlide`), and the stages of the pipeline as methods."""

    def segment_tissue(  # noqa: PLR0917 - TRIDENT's order
        self,
        segmentation_model: Segmenter,
        target_mag: float = USUAL_SEGMENTATION_MAG,
        holes_are_tissue: bool = True,
        job_dir: PathLike | None = None,
        batch_size: int = 16,
        device: str | torch.device = "cuda:0",
        verbose: bool = False,
        num_workers: int | None = None,
        *,
        artifact_remover_model: NeuralSegmenter | None = None,
    ) -> str | list[Polygon]:
        """Find the tissue.

        Args:
            segmentation_model: from `trident.segmentation_models.segmentation_model_factory`.
            target_mag: for compatibility; a segmenter looks at the slide at its own magnification (Otsu: 1.25x).
            holes_are_tissue: False cuts holes out of the outlines.
            job_dir: where `thumbnails/`, `contours/` and `contours_geojson/` go; None writes nothing.
            batch_size: for compatibility; it is set where the segmenter is made.
            device: where neural models run; Otsu has no use for it.
            verbose: show progress on stderr.
            num_workers: for compatibility.
            artifact_remover_model: as for `trident.Processor.run_segmentation_job`.

        Returns:
            Path of the GeoJSON, which becomes `tissue_seg_path`; without `job_dir` the outlines in level-0 pixels,
            which become `tissue`.

        Raises:
            SettingsError: `artifact_remover_model` is another model, or there is no such device.
            TridentError: the slide does not open or decode, its µm/px is unknown, or a file cannot be written.
        """
        remover = place_artifact_remover(artifact_remover_model, device)
        place_segmenter(segmentation_model, target_mag, device)
        if job_dir is None:
            from trident.segmentation.registry import segment_tissue

            with _progress(verbose, f"{self.name}: segmentation") as show:
                found = segment_tissue(self.slide, segmentation_model, cut_holes=not holes_are_tissue, progress=show)
                if remover is not None and found:
                    from trident.segmentation.artifacts import remove_artifacts

                    found = remove_artifacts(self.slide, found, remover, show)
            self._tissue, self.tissue_seg_path = found, None
            return found
        stage = SegmentationStage.of_model(
            self._context(SEGMENTATION, job_dir),
            self.source,
            segmentation_model,
            cut_holes=not holes_are_tissue,
            artifact_remover=remover,
        )
        self.tissue_seg_path = _make(stage, verbose)
        self._tissue = None
        return self.tissue_seg_path

    def extract_tissue_coords(
        self,
        target_mag: float | None,
        patch_size: int,
        save_coords: PathLike,
        overlap: int = 0,
        min_tissue_proportion: float = 0.0,
        *,
        target_mpp: float | None = None,
    ) -> str:
        """Cut the tissue of `tissue_seg_path` into patches and write their corners.

        Args:
            target_mag: magnification of the patches; may be fractional. None where `target_mpp` is given.
            patch_size: side of a patch in pixels at that magnification.
            save_coords: the grid directory.
            overlap: of neighbouring patches, in pixels at that magnification.
            min_tissue_proportion: least share of tissue, 0 to 1, of a patch; 0 keeps what touches tissue.
            target_mpp: µm/px of the patches instead of `target_mag`, related to the slide's true µm/px.

        Returns:
            `<save_coords>/patches/<name>_patches.h5`.

        Raises:
            StageNotRequestedError: there is no file of the tissue yet.
            SettingsError: an argument is out of its range.
            TridentError: the slide does not open, its µm/px is unknown, or a file cannot be read or written.
        """
        tissue_file = self.tissue_file().absolute()
        context = self._context(COORDS, save_coords)
        stage = CoordsStage(
            context,
            self.source,
            tissue=SegmentationStage.given(context, self.source, tissue_file),
            grid=GridOptions(target_mag, patch_size, overlap, min_tissue_proportion, target_mpp),
            picture=False,
        )
        return _make(stage)

    def visualize_coords(self, coords_path: PathLike, save_patch_viz: PathLike) -> str:
        """Draw the patches of a coordinates file on the thumbnail.

        Returns:
            `<save_patch_viz>/<name>.jpg`.

        Raises:
            StoreError: the file is missing, damaged or of another slide, or the picture cannot be written.
        """
        from trident.patching.legacy import plan_from_attributes
        from trident.store import h5
        from trident.store.atomic import atomic_path
        from trident.viz.overlays import draw_patches, save_jpeg, slide_thumbnail

        source = Path(coords_path)
        found = h5.read_coords(source)
        patches = plan_from_attributes(found.attributes, self.slide, source=source)
        picture = draw_patches(slide_thumbnail(self.slide), found.coords, patches.patch_size_level0, self.dimensions)
        output = Path(save_patch_viz) / f"{self.name}.jpg"
        with atomic_path(output) as path:
            save_jpeg(path, picture)
        return str(output)

    def dump_patches(
        self,
        coords_path: PathLike,
        save_patches: PathLike,
        max_patches: int = 0,
        fmt: str = "png",
        jpeg_quality: int = 90,
    ) -> str:
        """Write the patches of a coordinates file as images.

        Args:
            coords_path: the coordinates.
            save_patches: a folder `<name>` is made in it.
            max_patches: write the first so many; 0 writes all.
            fmt: `png` or `jpg`.
            jpeg_quality: 1 to 100, for `jpg`.

        Returns:
            The slide's folder, with files `<index:06d>_x<X>_y<Y>.<png or jpg>`.

        Raises:
            SettingsError: an argument is out of its range.
            StoreError: the coordinates cannot be used, or an image cannot be written.
            UnreadableSlideError: a patch does not decode.
        """
        from trident.patching.dump import dump_patches
        from trident.patching.legacy import plan_from_attributes
        from trident.patching.reader import PatchReader
        from trident.store import h5

        source, folder = Path(coords_path), Path(save_patches) / self.name
        found = h5.read_coords(source)
        plan = plan_from_attributes(found.attributes, self.slide, source=source).plan
        reader = PatchReader(self.slide, plan)
        dump_patches(reader, found.coords, folder, limit=max_patches, image_format=fmt, jpeg_quality=jpeg_quality)
        return str(folder)

    def extract_patch_features(  # noqa: PLR0917 - TRIDENT's order
        self,
        patch_encoder: PatchEncoder,
        coords_path: PathLike,
        save_features: PathLike,
        device: str | torch.device = "cuda:0",
        saveas: str = "h5",
        batch_limit: int = 512,
        verbose: bool = False,
    ) -> str:
        """Encode the patches of a coordinates file.

        Args:
            patch_encoder: from `trident.patch_encoder_models.encoder_factory`, or a `CustomInferenceEncoder`; it is
                moved to `device`.
            coords_path: ours, TRIDENT's or CLAM's.
            save_features: folder of the output.
            device: `cpu`, `cuda`, `cuda:1`; the CPU, with a warning, where there is no GPU.
            saveas: `h5`, or `pt`: a tensor, float32 (N, D), for `torch.load` beside the HDF5 file that it is made from.
            batch_limit: patches encoded at once; halved as often as it takes where the device's memory runs out.
            verbose: show progress on stderr.

        Returns:
            `<save_features>/<name>.h5`, or `.pt`.

        Raises:
            NotAvailableError: another `saveas`.
            SettingsError: an argument is out of its range, or `patch_encoder` is no patch encoder.
            StoreError: the coordinates cannot be used, or the output cannot be written.
            TridentError: the slide does not decode, or the encoder gives NaN or infinity.
        """
        check_saveas(saveas, ("h5", "pt"))
        check_patch_encoder(patch_encoder)
        context = self._context(PATCH_FEATURES, save_features, device)
        stage = PatchFeaturesStage.of_model(
            context,
            self.source,
            patch_encoder,
            settings=settings_of_model(patch_encoder),
            coords=CoordsStage.given(context, self.source, Path(coords_path).absolute()),
            batch_size=batch_limit,
            output=context.layout.job_dir / f"{self.name}.h5",
        )
        made = _make(stage, verbose)
        return made if saveas == "h5" else self._save_tensor(Path(made), patch_encoder.enc_name)

    def _save_tensor(self, features: Path, encoder: str) -> str:
        from trident.export.slides import export_slides

        outcome = export_slides([(self.name, features)], features.parent, "pt", encoder=encoder, overwrite=True)
        if outcome.problems:
            raise StoreError(outcome.problems[0])
        return str(features.with_suffix(".pt"))

    def extract_slide_features(
        self,
        patch_features_path: PathLike,
        slide_encoder: SlideEncoder,
        save_features: PathLike,
        device: str | torch.device = "cuda",
    ) -> str:
        """Pool the patch features of the slide into one embedding.

        Args:
            patch_features_path: features of the patch encoder that `slide_encoder` needs.
            slide_encoder: from `trident.slide_encoder_models.encoder_factory`; it is moved to `device`.
            save_features: folder of the output.
            device: as for `extract_patch_features`.

        Returns:
            `<save_features>/<name>.h5`.

        Raises:
            SettingsError: `slide_encoder` is no slide encoder.
            StoreError: the features are missing, damaged or another encoder's, or the output cannot be written.
            WeightsError: the encoder gives NaN or infinity.
        """
        check_slide_encoder(slide_encoder)
        features_file = Path(patch_features_path).absolute()
        patch_encoder = _encoder_of_features(features_file, slide_encoder.enc_name)
        context = self._context(SLIDE_FEATURES, save_features, device)
        stage = SlideFeaturesStage.of_model(
            context,
            self.source,
            slide_encoder,
            features=PatchFeaturesStage.given(context, self.source, patch_encoder, features_file),
            output=context.layout.job_dir / f"{self.name}.h5",
        )
        return _make(stage)

    def _context(self, kind: str, folder: PathLike, device: str | torch.device = "cpu") -> StageContext:
        """A job of one slide and one stage, whose job directory and grid directory are `folder`."""
        return StageContext(
            layout=JobLayout(Path(folder).expanduser().absolute(), "."),
            made=frozenset({kind}),
            reader_type=self.reader_type,
            custom_mpp_keys=self.custom_mpp_keys,
            device=usable_device(device),
            max_workers=self.max_workers,
        )


class OpenSlideWSI(WSI):
    """Read with OpenSlide."""

    fixed_reader: ClassVar[str | None] = "openslide"


class CuCIMWSI(WSI):
    """Read with cuCIM's CPU decoder: TIFF of JPEG or JPEG 2000 tiles; the pixels are OpenSlide's."""

    fixed_reader: ClassVar[str | None] = "cucim"


class ImageWSI(WSI):
    """A plain image (PNG, JPEG), which has one level; its µm/px has to be given as `mpp`."""

    fixed_reader: ClassVar[str | None] = "image"


_CLASSES: dict[str | None, type[WSI]] = {one.fixed_reader: one for one in (OpenSlideWSI, CuCIMWSI, ImageWSI)}


def load_wsi(slide_path: PathLike, reader_type: str | None = None, lazy_init: bool = True, **kwargs: Any) -> WSI:
    """A slide, with the named reader or the one that fits the file.

    Args:
        slide_path: the slide file.
        reader_type: one of `trident.slides.registry.READER_TYPES`; None chooses when the slide is opened.
        lazy_init: False opens the slide now.
        kwargs: further arguments of `WSI`: `name`, `tissue_seg_path`, `custom_mpp_keys`, `mpp`, `max_workers`.

    Raises:
        SettingsError: an unknown reader.
        TridentError: with `lazy_init=False`, the slide does not open.
    """
    return _CLASSES.get(reader_type, WSI)(slide_path, lazy_init=lazy_init, reader_type=reader_type, **kwargs)


def _encoder_of_features(path: Path, slide_encoder: str) -> str:
    """The patch encoder that a features file is of, checked against the one that the slide encoder needs."""
    from trident.encoders.slide.registry import slide_to_patch_encoder_name
    from trident.store import h5

    recipe = h5.read_recipe(path)
    # Another program's file says it only beside its data.
    found = recipe.stage.partition(":")[2] if recipe else h5.read_features(path).attributes.get("encoder")
    needed = slide_to_patch_encoder_name.get(slide_encoder)
    if found is not None and needed is not None and found != needed:
        raise StoreError(
            f"{path}: holds features of {found}, but slide encoder {slide_encoder} needs those of {needed}; "
            f"run extract_patch_features with {needed} first"
        )
    return str(found or needed or "unknown")


def _make(stage: Stage, verbose: bool = False) -> str:
    """Make a stage's output, whatever is there. No log, settings or state are written beside it."""
    with OutputLock(stage.output), _progress(verbose, f"{stage.source.name}: {stage.label}") as show:
        result = stage.produce(show)
    logger.info("%s: %s: %s", stage.source.name, stage.label, result.message)
    return str(stage.output)


@contextmanager
def _progress(verbose: bool, label: str) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc=label, disable=not verbose) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
