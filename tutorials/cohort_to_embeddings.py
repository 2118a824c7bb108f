"""From a folder of slides to one vector a slide, and to the slides that look alike. On a CPU, without any weights.

    python tutorials/cohort_to_embeddings.py --out tutorial

Draws two slides for each of a few patients, whose stains differ as those of different laboratories do; runs the whole
pipeline on the folder, as `trident batch` does; and names for each slide the one whose embedding is nearest. Run it
again: the pipeline finds that everything is done. It takes half a minute.

That stain alone makes slides "alike" is worth knowing before embeddings of several laboratories are compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trident.cli import batch
from trident.demo.slide import render_demo_slide
from trident.demo.svs import write_svs
from trident.store import h5

WIDTH_PX, HEIGHT_PX, MPP, MAGNIFICATION = 1024, 768, 0.5, 20
SLIDES_PER_PATIENT = 2


def restain(image: NDArray[np.uint8], strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its optical density in red, green and blue multiplied by `strength` (3,)."""
    density = -np.log((image.astype(np.float64) + 1) / 256)
    return np.clip(256 * np.exp(-density * strength) - 1, 0, 255).astype(np.uint8)


def draw_slides(folder: Path, n_patients: int) -> dict[str, str]:
    """Draw the slides of all patients. Returns the patient of each slide, by the slide's name."""
    rng = np.random.default_rng(0)
    patients = {}
    for patient in range(n_patients):
        strength = rng.uniform(0.6, 1.4, 3)
        for number in range(SLIDES_PER_PATIENT):
            name, seed = f"patient{patient}_{'ab'[number]}", patient * SLIDES_PER_PATIENT + number
            image = render_demo_slide(seed=seed, width_px=WIDTH_PX, height_px=HEIGHT_PX, mpp=MPP)
            write_svs(folder / f"{name}.svs", restain(image, strength), mpp=MPP, magnification=MAGNIFICATION)
            patients[name] = f"patient{patient}"
    return patients


def embed(slides: Path, job_dir: Path) -> Path:
    """Run the pipeline on the folder. Returns the folder of the slide embeddings."""
    options = ["--wsi_dir", slides, "--job_dir", job_dir, "--task", "all", "--segmenter", "otsu", "--gpus", -1]
    options += ["--executor", "in-process"]  # small slides: starting another process would take longer than the work
    options += ["--mag", MAGNIFICATION, "--patch_size", 128, "--slide_encoder", "mean-stain-stats"]
    if code := batch([str(option) for option in options]):
        raise SystemExit(code)
    return job_dir / f"{MAGNIFICATION}x_128px_0px_overlap" / "slide_features_mean-stain-stats"


def nearest(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of (S, F) vectors the index (S,) of the most similar other one: cosine, after standardising."""
    standardised = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-9)
    unit = standardised / np.linalg.norm(standardised, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)


def main() -> None:
    """Run the tutorial."""
    parser = argparse.ArgumentParser(description="Embed a folder of drawn slides, and find those that look alike.")
    parser.add_argument("--out", type=Path, default=Path("tutorial"), help="folder of everything that is made")
    parser.add_argument("--patients", type=int, default=4, help="how many patients, at least 2")
    given = parser.parse_args()
    if given.patients < 2:
        parser.error("give at least 2 patients: with one there is nobody to be told apart from")

    patients = draw_slides(given.out / "slides", given.patients)
    folder = embed(given.out / "slides", given.out / "job")
    names = sorted(patients)
    vectors = np.stack([h5.read_slide_features(folder / f"{name}.h5").features for name in names]).astype(np.float64)
    print(f"{len(names)} slides, {vectors.shape[1]} numbers each")
    found = [names[index] for index in nearest(vectors)]
    for name, other in zip(names, found, strict=True):
        print(f"{name} is most like {other}")
    right = sum(patients[name] == patients[other] for name, other in zip(names, found, strict=True))
    print(f"of the same patient: {right} of {len(names)}")


if __name__ == "__main__":
    main()
