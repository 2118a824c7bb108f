"""From slides to a trained classifier and its attention: a first project with trident, on a CPU, without any weights.

    python tutorials/train_abmil.py --out tutorial

Draws slides of two kinds, of which one has clusters of large dark nuclei; finds the tissue, cuts patches and describes
each with 64 statistics of colour and texture; trains attention-based pooling (ABMIL, Ilse et al. 2018) with a linear
head to tell the kinds apart; and writes a heatmap of where the attention lies on a slide that it was not trained on.
It takes under two minutes.

For slides of your own replace `draw_slides` by a table of files and labels, and `stain-stats` by an encoder of
`trident encoders`.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trident import Processor, load_wsi, visualize_heatmap
from trident.demo.slide import render_demo_slide
from trident.demo.svs import write_svs
from trident.patch_encoder_models import encoder_factory
from trident.segmentation_models import segmentation_model_factory
from trident.slide_encoder_models import ABMILSlideEncoder
from trident.store import h5

MPP = 0.5
MAGNIFICATION = 20
WIDTH_PX, HEIGHT_PX = 2048, 1536
PATCH_PX = 128
CLUSTERS = 8
CLUSTER_RADIUS_PX = 90
NUCLEI_PER_CLUSTER = 70
SEED = 0


@dataclass
class Bag:
    """The patches of one slide."""

    name: str
    kind: int
    features: Tensor
    """(N, F) float32."""
    coords: NDArray[np.int64]
    """(N, 2) level-0 pixels of the patches' top-left corners."""
    patch_size_level0_px: float


class Classifier(nn.Module):
    """Patch features to a logit for each kind: standardised, pooled by attention, then a linear layer."""

    def __init__(self, mean: Tensor, deviation: Tensor, n_kinds: int = 2) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Buffer(mean), nn.Buffer(deviation)
        self.pool = ABMILSlideEncoder(input_feature_dim=len(mean), head_dim=32, dropout=0.25)
        self.head = nn.Linear(len(mean), n_kinds)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (kinds,) and attention scores (N,) before the softmax, of features (N, F)."""
        standardised = (features - self.mean) / self.deviation
        embedding, scores = self.pool({"features": standardised}, return_raw_attention=True)
        return self.head(embedding), scores[0]


def paint_clusters(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.int64]:
    """Paint clusters of large dark nuclei on the tissue; returns their centres (n, 2), level-0 pixels."""
    # Tissue is pink: less green than red. Pen marks and glass are not.
    pink = (image[..., 0].astype(np.int16) - image[..., 1] > 25) & (image[..., 2] > 90)
    inner = cv2.erode(cv2.morphologyEx(pink.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9))), np.ones((41, 41)))
    rows, columns = np.nonzero(inner)
    chosen = rng.choice(len(rows), CLUSTERS, replace=False)
    centres = np.stack([columns[chosen], rows[chosen]], axis=1)
    nuclei = np.zeros(image.shape[:2], np.uint8)
    for centre in centres:
        for x, y in rng.normal(centre, CLUSTER_RADIUS_PX / 2, (NUCLEI_PER_CLUSTER, 2)).round().astype(int):
            axes = (int(rng.integers(7, 12)), int(rng.integers(6, 10)))
            cv2.ellipse(nuclei, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    share = (cv2.GaussianBlur(nuclei, (0, 0), 1.0) / 255.0 * pink)[..., None]
    image[:] = (image * (1 - share) + np.array((70, 40, 110)) * share).astype(np.uint8)
    return centres


def draw_slides(folder: Path, n_slides: int) -> tuple[dict[str, int], dict[str, NDArray[np.int64]]]:
    """Draw slides of kind 0 and 1 in turn, and `labels.csv`, which lists them.

    Returns:
        The kind of each slide by its name, and the centres (n, 2) of its clusters in level-0 pixels.
    """
    kinds: dict[str, int] = {}
    clusters: dict[str, NDArray[np.int64]] = {}
    for index in range(n_slides):
        name, kind = f"slide_{index:02d}", index % 2
        image = render_demo_slide(seed=SEED + index, width_px=WIDTH_PX, height_px=HEIGHT_PX, mpp=MPP)
        if kind:
            clusters[name] = paint_clusters(image, np.random.default_rng(SEED + index))
        write_svs(folder / f"{name}.svs", image, mpp=MPP, magnification=MAGNIFICATION)
        kinds[name] = kind
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["wsi", "kind"])
        table.writerows((f"{name}.svs", kind) for name, kind in kinds.items())
    return kinds, clusters


def extract_features(slides: Path, job_dir: Path) -> Path:
    """Tissue, patches and their features of all slides; what is there already is not made again.

    Returns:
        The folder of the features, one HDF5 file a slide.
    """
    job = Processor(job_dir, slides, custom_list_of_wsis=slides / "labels.csv")
    job.run_segmentation_job(segmentation_model_factory("otsu"), device="cpu")
    grid = job.run_patching_job(MAGNIFICATION, PATCH_PX, min_tissue_proportion=0.25)
    features = job.run_patch_feature_extraction_job(grid, encoder_factory("stain-stats"), device="cpu")
    job.release()
    return Path(features)


def load_bags(folder: Path, kinds: dict[str, int]) -> list[Bag]:
    """The features of each slide."""
    bags = []
    for name, kind in kinds.items():
        found = h5.read_features(folder / f"{name}.h5")
        side_px = float(found.coords_attributes["patch_size_level0"])
        bags.append(Bag(name, kind, torch.from_numpy(found.features), found.coords, side_px))
    return bags


def split(bags: list[Bag]) -> tuple[list[Bag], list[Bag]]:
    """Training and test slides: of each kind, the last third is kept for the test."""
    train, test = [], []
    for kind in (0, 1):
        of_kind = [bag for bag in bags if bag.kind == kind]
        n_test = max(1, len(of_kind) // 3)
        train += of_kind[:-n_test]
        test += of_kind[-n_test:]
    return train, test


def fit(train: list[Bag], epochs: int) -> Classifier:
    """A classifier trained on whole slides, one a step."""
    torch.manual_seed(SEED)
    patches = torch.cat([bag.features for bag in train])
    # Only the training slides may shape the scale: the test slides are to be unseen.
    model = Classifier(patches.mean(dim=0), patches.std(dim=0).clamp(min=1e-6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for index in torch.randperm(len(train)).tolist():
            logits, _ = model(train[index].features)
            loss = loss_of(logits, torch.tensor(train[index].kind))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: Classifier, bags: list[Bag]) -> float:
    """Share of the slides whose kind is told."""
    return sum(int(model(bag.features)[0].argmax()) == bag.kind for bag in bags) / len(bags)


@torch.inference_mode()
def attention_of(model: Classifier, bag: Bag) -> NDArray[np.float32]:
    """Attention scores (N,) before the softmax."""
    scores: NDArray[np.float32] = model(bag.features)[1].numpy()
    return scores


def shows_cluster(bag: Bag, centres: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which patches (N,) have their middle within the radius of a painted cluster."""
    middles = bag.coords + bag.patch_size_level0_px / 2
    distance = np.linalg.norm(middles[:, None] - centres[None], axis=2)
    return np.asarray(distance.min(axis=1) <= CLUSTER_RADIUS_PX)


def main() -> None:
    """Run the tutorial."""
    parser = argparse.ArgumentParser(description="Train attention-based pooling on slides that are drawn for it.")
    parser.add_argument("--out", type=Path, default=Path("tutorial"), help="folder of everything that is made")
    parser.add_argument("--slides", type=int, default=12, help="how many slides to draw, at least 4")
    parser.add_argument("--epochs", type=int, default=60, help="how often to look at each training slide")
    given = parser.parse_args()
    if given.slides < 4 or given.epochs < 1:
        parser.error("give at least 4 slides, so that each kind is trained and tested on, and at least 1 epoch")

    kinds, clusters = draw_slides(given.out / "slides", given.slides)
    bags = load_bags(extract_features(given.out / "slides", given.out / "job"), kinds)
    train, test = split(bags)
    model = fit(train, given.epochs)
    torch.save(model.state_dict(), given.out / "classifier.pt")
    for name, part in (("training", train), ("test", test)):
        print(f"{name} accuracy: {accuracy(model, part):.2f} ({len(part)} slides)")

    shown = next(bag for bag in test if bag.kind == 1)
    scores = attention_of(model, shown)
    with load_wsi(given.out / "slides" / f"{shown.name}.svs") as slide:
        picture = visualize_heatmap(
            slide,
            scores,
            shown.coords,
            shown.patch_size_level0_px,
            vis_level=1,
            num_top_patches_to_save=8,
            output_dir=given.out / "heatmap",
            filename=f"{shown.name}.png",
        )
    in_cluster = shows_cluster(shown, clusters[shown.name])
    top = np.argsort(-scores)[: int(in_cluster.sum())]
    print(f"patches with dark clusters: {in_cluster.mean():.2f} of all in {shown.name}, ", end="")
    print(f"{in_cluster[top].mean():.2f} of the {len(top)} with the most attention")
    print(f"heatmap: {picture}")


if __name__ == "__main__":
    main()
