"""A folder of slides through the pipeline, stage by stage, from Python: the interface that users of TRIDENT know.

The slides are done one after the other, in this process. Outputs, locks, recipes and state files are those of
`trident batch`, so that a job can be begun with one and finished with the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

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
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, absolute_path
from trident.lazy_slide import PathLike
from trident.slide_by_slide import run_for_each
from trident.slides.discovery import find_slides
from trident.stages.base import Stage, StageContext
from trident.stages.coords import CoordsStage, GridOptions
from trident.stages.features import PatchFeaturesStage, SlideFeaturesStage, settings_of_model
from trident.stages.segmentation import SegmentationStage
from trident.staging.cache import SlideCache
from trident.store.layout import JobLayout, grid_name
from trident.wsi import WSI, load_wsi

if TYPE_CHECKING:
    import torch

    from trident.encoders.patch.base import PatchEncoder
    from trident.encoders.slide.base import SlideEncoder
    from trident.segmentation.base import Segmenter
    from trident.segmentation.neural import NeuralSegmenter


_MEAN = "mean-"
_CACHED = 32
"""Slides kept in the local cache at once; the default of `--cache_batch_size` too."""


class Processor:
    """The slides of a folder and the job directory of their outputs; each method runs one stage for all slides.

    What is done already is skipped; an output that was made with other settings is an error, never overwritten.
    """

    def __init__(  # noqa: PLR0917 - TRIDENT's order
        self,
        job_dir: PathLike,
        wsi_source: PathLike,
        wsi_ext: Sequence[str] | None = None,
        wsi_cache: PathLike | None = None,
        clear_cache: bool = False,
        skip_errors: bool = False,
        custom_mpp_keys: Sequence[str] | None = None,
        custom_list_of_wsis: PathLike | None = None,
        max_workers: int | None = None,
        reader_type: str | None = None,
        search_nested: bool = False,
    ) -> None:
        """Find the slides; none is opened yet.

        Args:
            job_dir: directory of all outputs.
            wsi_source: folder of slides.
            wsi_ext: extensions to look for; all known ones by default.
            wsi_cache: folder on fast storage for copies of slides, made ahead; at most 32 at once.
            clear_cache: for compatibility: a job leaves no copies behind.
            skip_errors: log a slide that fails, record it, and go on with the others.
            custom_mpp_keys: further metadata keys that may hold µm/px.
            custom_list_of_wsis: CSV with a column `wsi` (path relative to `wsi_source`) and, optionally, `mpp`.
            max_workers: reading threads; None for one a processor, 0 to read in the calling thread.
            reader_type: one of `trident.slides.registry.READER_TYPES`; None chooses for each file.
            search_nested: look into subfolders too.

        Raises:
            DiscoveryError: no such folder, no slide, a bad CSV, or two slides with one name.
            SettingsError: an unknown reader.
        """
        self._cache = None if wsi_cache is None else SlideCache(absolute_path(Path(wsi_cache)), _CACHED)
        if isinstance(wsi_ext, str):  # a text is a sequence too, of letters
            wsi_ext = [wsi_ext]
        self.job_dir = str(absolute_path(Path(job_dir)))
        self.wsi_source = str(wsi_source)
        self.skip_errors = skip_errors
        self.custom_mpp_keys = tuple(custom_mpp_keys or ())
        self.max_workers = max_workers
        self.reader_type = reader_type
        found = find_slides(
            Path(wsi_source).expanduser(),
            extensions=wsi_ext,
            search_nested=search_nested,
            custom_list=None if custom_list_of_wsis is None else Path(custom_list_of_wsis).expanduser(),
        )
        layout = self._layout(".")
        self.wsis: list[WSI] = []
        """The slides; a list that is shortened or reordered is honoured by the next job."""
        for source in found:
            wsi = load_wsi(
                source.path,
                reader_type,
                mpp=source.mpp,
                custom_mpp_keys=self.custom_mpp_keys,
                max_workers=max_workers,
            )
            wsi.name, wsi.rel_path = source.name, source.rel_path
            tissue = layout.tissue(source.name)
            wsi.tissue_seg_path = str(tissue) if tissue.exists() else None
            self.wsis.append(wsi)

    def run_segmentation_job(  # noqa: PLR0917 - TRIDENT's order
        self,
        segmentation_model: Segmenter,
        seg_mag: float = USUAL_SEGMENTATION_MAG,
        holes_are_tissue: bool = True,
        batch_size: int = 16,
        artifact_remover_model: NeuralSegmenter | None = None,
        device: str | torch.device = "cuda:0",
    ) -> str:
        """Find the tissue of every slide.

        Args:
            segmentation_model: from `trident.segmentation_models.segmentation_model_factory`.
            seg_mag: for compatibility; a segmenter looks at slides at its own magnification (Otsu: 1.25x).
            holes_are_tissue: False cuts holes out of the outlines.
            batch_size: for compatibility; it is set where the segmenter is made.
            artifact_remover_model: `segmentation_model_factory("grandqc_artifact")`, which takes pen marks, folds,
                bubbles and blur out of the tissue (with `remove_penmarks_only=True`, pen marks alone); None leaves
                them in.
            device: where neural models run; Otsu has no use for it.

        Returns:
            The folder of the GeoJSON files.

        Raises:
            SettingsError: `artifact_remover_model` is another model, or there is no such device.
            TridentError: whatever is wrong with the first slide that fails, unless errors are skipped.
        """
        remover = place_artifact_remover(artifact_remover_model, device)
        place_segmenter(segmentation_model, seg_mag, device)
        context = self._context(self._layout("."), SEGMENTATION)

        def stage_of(wsi: WSI) -> Stage:
            return SegmentationStage.of_model(
                context, wsi.source, segmentation_model, cut_holes=not holes_are_tissue, artifact_remover=remover
            )

        def done(wsi: WSI, stage: Stage) -> None:
            wsi.tissue_seg_path = str(stage.output)

        self._run("segmentation", stage_of, done)
        return str(context.layout.tissue("any").parent)

    def run_patching_job(  # noqa: PLR0917 - TRIDENT's order
        self,
        target_magnification: float | None,
        patch_size: int,
        overlap: int = 0,
        saveto: PathLike | None = None,
        visualize: bool = True,
        min_tissue_proportion: float = 0.0,
        *,
        target_mpp: float | None = None,
    ) -> str:
        """Cut the tissue of every slide into patches.

        Args:
            target_magnification: of the patches; may be fractional. None where `target_mpp` is given.
            patch_size: side in pixels at that magnification.
            overlap: of neighbouring patches, in pixels at that magnification.
            saveto: grid directory, relative to the job directory; `<mag>x_<size>px_<overlap>px_overlap` by default, or
                `<µm/px>mpp_<size>px_<overlap>px_overlap`.
            visualize: draw the patches on the thumbnails.
            min_tissue_proportion: least share of tissue, 0 to 1, of a patch; 0 keeps what touches tissue.
            target_mpp: µm/px of the patches instead of `target_magnification`, related to each slide's true µm/px.

        Returns:
            The grid directory.

        Raises:
            StageNotRequestedError: a slide's tissue has not been looked for.
            TridentError: whatever else is wrong with the first slide that fails, unless errors are skipped.
        """
        grid = GridOptions(target_magnification, patch_size, overlap, min_tissue_proportion, target_mpp)
        if saveto is None:
            saveto = grid_name(target_magnification, patch_size, overlap, target_mpp=target_mpp)
        layout = self._layout(saveto)
        context = self._context(layout, COORDS)

        def stage_of(wsi: WSI) -> Stage:
            tissue = SegmentationStage.given(context, wsi.source, Path(wsi.tissue_seg_path or layout.tissue(wsi.name)))
            return CoordsStage(context, wsi.source, tissue=tissue, grid=grid, picture=visualize)

        self._run("coords", stage_of, needs="run_segmentation_job")
        return str(layout.grid_dir)

    def run_patch_feature_extraction_job(  # noqa: PLR0917 - TRIDENT's order
        self,
        coords_dir: PathLike,
        patch_encoder: PatchEncoder,
        device: str | torch.device,
        saveas: str = "h5",
        batch_limit: int = 512,
        saveto: PathLike | None = None,
    ) -> str:
        """Encode the patches of every slide.

        Args:
            coords_dir: grid directory, relative to the job directory or absolute; TRIDENT's and CLAM's will do.
            patch_encoder: from `trident.patch_encoder_models.encoder_factory`, or a `CustomInferenceEncoder`.
            device: `cpu`, `cuda`, `cuda:1`; the CPU, with a warning, where there is no GPU.
            saveas: `h5`, or `pt`: a tensor, float32 (N, D), for `torch.load` beside each HDF5 file, from which it is
                made and which later stages need.
            batch_limit: patches encoded at once; halved as often as it takes where the device's memory runs out.
            saveto: folder of the features, relative to the job directory; `<grid>/features_<encoder>` by default.

        Returns:
            The folder of the features.

        Raises:
            NotAvailableError: another `saveas`.
            SettingsError: `patch_encoder` is no patch encoder.
            StageNotRequestedError: a slide has no coordinates.
            TridentError: whatever else is wrong with the first slide that fails, unless errors are skipped.
        """
        check_saveas(saveas, ("h5", "pt"))
        check_patch_encoder(patch_encoder)
        layout = self._layout(coords_dir)
        context = self._context(layout, PATCH_FEATURES, device=usable_device(device))
        folder = layout.patch_features_dir(patch_encoder.enc_name) if saveto is None else layout.job_dir / saveto
        settings = settings_of_model(patch_encoder)

        def stage_of(wsi: WSI) -> Stage:
            return PatchFeaturesStage.of_model(
                context,
                wsi.source,
                patch_encoder,
                settings=settings,
                coords=CoordsStage.given(context, wsi.source),
                batch_size=batch_limit,
                output=folder / f"{wsi.name}.h5",
            )

        self._run(f"patch features ({patch_encoder.enc_name})", stage_of, needs="run_patching_job")
        if saveas == "pt":
            self._save_tensors(folder, patch_encoder.enc_name)
        return str(folder)

    def run_slide_feature_extraction_job(  # noqa: PLR0917 - TRIDENT's order
        self,
        slide_encoder: SlideEncoder,
        coords_dir: PathLike,
        device: str | torch.device = "cuda",
        saveas: str = "h5",
        batch_limit: int = 512,
        saveto: PathLike | None = None,
    ) -> str:
        """Make one embedding of every slide.

        Patch features of the encoder that `slide_encoder` needs are used where they are in
        `<grid>/features_<patch encoder>`; missing ones are extracted first.

        Args:
            slide_encoder: from `trident.slide_encoder_models.encoder_factory`.
            coords_dir: grid directory, relative to the job directory or absolute.
            device: as for `run_patch_feature_extraction_job`.
            saveas: `h5` is what this version has.
            batch_limit: patches encoded at once, where patch features are missing.
            saveto: folder of the embeddings, relative to the job directory; `<grid>/slide_features_<encoder>` by
                default.

        Returns:
            The folder of the embeddings.

        Raises:
            NotAvailableError: another `saveas`, or patch features are missing whose encoder this version does not have.
            SettingsError: `slide_encoder` is no slide encoder, or needs features of an unknown patch encoder.
            StageNotRequestedError: a slide has no coordinates.
            TridentError: whatever else is wrong with the first slide that fails, unless errors are skipped.
        """
        check_saveas(saveas)
        check_slide_encoder(slide_encoder)
        patch_encoder_name = _patch_encoder_for(slide_encoder.enc_name)
        layout = self._layout(coords_dir)
        context = self._context(layout, PATCH_FEATURES, SLIDE_FEATURES, device=usable_device(device))
        folder = layout.slide_features_dir(slide_encoder.enc_name) if saveto is None else layout.job_dir / saveto

        @lru_cache(maxsize=1)
        def load_patch_encoder() -> PatchEncoder:
            from trident.encoders.patch.factory import encoder_factory

            return encoder_factory(patch_encoder_name)

        def patch_features_of(wsi: WSI) -> PatchFeaturesStage:
            # No settings but the name: whatever was chosen for existing features (input size, weights) stands.
            return PatchFeaturesStage(
                context,
                wsi.source,
                coords=CoordsStage.given(context, wsi.source),
                encoder_name=patch_encoder_name,
                encoder_settings={},
                load_encoder=load_patch_encoder,
                batch_size=batch_limit,
            )

        def stage_of(wsi: WSI) -> Stage:
            output = folder / f"{wsi.name}.h5"
            return SlideFeaturesStage.of_model(
                context, wsi.source, slide_encoder, features=patch_features_of(wsi), output=output
            )

        self._run(f"patch features ({patch_encoder_name})", patch_features_of, needs="run_patching_job")
        self._run(
            f"slide features ({slide_encoder.enc_name})",
            stage_of,
            needs="run_patch_feature_extraction_job",
            reads_slides=False,
        )
        return str(folder)

    def release(self) -> None:
        """Close every slide that is open."""
        for wsi in self.wsis:
            wsi.release()

    def _save_tensors(self, folder: Path, encoder: str) -> None:
        """Write `<slide>.pt` beside every features file of these slides, unless it is there and up to date."""
        from trident.export.slides import export_slides

        files = [(wsi.name, folder / f"{wsi.name}.h5") for wsi in self.wsis]
        there = [(name, path) for name, path in files if path.exists()]
        problems = export_slides(there, folder, "pt", encoder=encoder).problems
        if problems and not self.skip_errors:
            raise StoreError(problems[0])

    def _layout(self, grid: PathLike) -> JobLayout:
        return JobLayout(Path(self.job_dir), str(Path(grid).expanduser()))

    def _context(self, layout: JobLayout, *kinds: str, device: str = "cpu") -> StageContext:
        return StageContext(
            layout=layout,
            made=frozenset(kinds),
            reader_type=self.reader_type,
            custom_mpp_keys=self.custom_mpp_keys,
            device=device,
            max_workers=self.max_workers,
            cache=self._cache,
        )

    def _run(
        self,
        label: str,
        stage_of: Callable[[WSI], Stage],
        done: Callable[[WSI, Stage], None] | None = None,
        *,
        needs: str | None = None,
        reads_slides: bool = True,
    ) -> None:
        cache = self._cache if reads_slides else None
        run_for_each(self.wsis, label, stage_of, done, needs=needs, cache=cache, skip_errors=self.skip_errors)


def _patch_encoder_for(slide_encoder: str) -> str:
    """The patch encoder that a slide encoder needs; `mean-<any name>` takes features of that name."""
    from trident.encoders.slide.registry import required_patch_encoder, slide_to_patch_encoder_name

    if slide_encoder not in slide_to_patch_encoder_name and slide_encoder.startswith(_MEAN):
        return slide_encoder.removeprefix(_MEAN)
    return required_patch_encoder(slide_encoder)
