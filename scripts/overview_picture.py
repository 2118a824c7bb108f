"""Draw docs/pictures/overview.jpg: a synthetic slide with its tissue, its patches and a heatmap, made by the pipeline.

python scripts/overview_picture.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trident import Processor, load_wsi, visualize_heatmap
from trident.demo import draw_demo_slide
from trident.encoders.patch.stats import COMPONENT_NAMES
from trident.patch_encoder_models import encoder_factory
from trident.segmentation_models import segmentation_model_factory
from trident.store import h5

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "overview.jpg"
PANEL_PX = (480, 360)
GAP_PX = 8
CAPTION_PX = 30
PATCH_PX = 64
MAGNIFICATION = 20
JPEG_QUALITY = 82


def panels(folder: Path) -> list[tuple[str, Path]]:
    """Captions and pictures of a slide that is drawn and processed in `folder`."""
    draw_demo_slide(folder / "slides" / "drawn.svs", seed=4, width_px=4096, height_px=3072, mpp=0.25)
    job = Processor(folder / "job", folder / "slides")
    job.run_segmentation_job(segmentation_model_factory("otsu"), device="cpu")
    grid = Path(job.run_patching_job(MAGNIFICATION, PATCH_PX, min_tissue_proportion=0.25))
    features = job.run_patch_feature_extraction_job(str(grid), encoder_factory("stain-stats"), device="cpu")
    job.release()
    found = h5.read_features(Path(features) / "drawn.h5")
    scores = found.features[:, COMPONENT_NAMES.index("hematoxylin_mean")]
    with load_wsi(folder / "slides" / "drawn.svs") as wsi:
        heatmap = visualize_heatmap(
            wsi,
            scores,
            found.coords,
            float(found.coords_attributes["patch_size_level0"]),
            vis_level=1,
            output_dir=str(folder),
            filename="heatmap.png",
        )
    return [
        ("tissue outlines", folder / "job" / "contours" / "drawn.jpg"),
        ("patches", grid / "visualization" / "drawn.jpg"),
        ("hematoxylin, from the patch features", Path(heatmap)),
    ]


def compose(pictures: list[tuple[str, Path]]) -> Image.Image:
    """The pictures side by side, each with its caption below."""
    width_px, height_px = PANEL_PX
    size = (len(pictures) * (width_px + GAP_PX) - GAP_PX, height_px + CAPTION_PX)
    whole = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(whole)
    for index, (caption, path) in enumerate(pictures):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        x = index * (width_px + GAP_PX)
        whole.paste(Image.fromarray(cv2.resize(pixels, PANEL_PX, interpolation=cv2.INTER_AREA)), (x, 0))
        draw.text(
            (x + width_px // 2, height_px + CAPTION_PX // 2), caption, "black", ImageFont.load_default(16), anchor="mm"
        )
    return whole


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description="Draw the picture of README.md.")
    parser.add_argument("--out", type=Path, default=PICTURE, help="file to write (default: docs/pictures/overview.jpg)")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        compose(panels(Path(folder))).save(given.out, quality=JPEG_QUALITY, optimize=True)


if __name__ == "__main__":
    main()
