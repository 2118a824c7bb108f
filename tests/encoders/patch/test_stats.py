"""trident/encoders/patch/stats.py: each number against NumPy, on a real patch and on blank ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from trident.encoders.patch.registry import SPECS
from trident.encoders.patch.stats import COMPONENT_NAMES, StainStatistics


def _statistics(batch: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(StainStatistics()(batch))


def _named(image: torch.Tensor) -> dict[str, float]:
    return dict(zip(COMPONENT_NAMES, _statistics(image.unsqueeze(0))[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def patch(shared_reference: Path) -> torch.Tensor:
    image: torch.Tensor = to_tensor(Image.open(shared_reference / "patch512.png").convert("RGB"))
    return image


def test_dimension() -> None:
    assert len(COMPONENT_NAMES) == len(set(COMPONENT_NAMES)) == SPECS["stain-stats"].embedding_dim == 64
    assert _statistics(torch.rand(3, 3, 20, 30)).shape == (3, 64)
    assert _statistics(torch.rand(3, 3, 20, 30)).dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 5), (17, 256), (224, 224)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_blank_patches_are_finite(size: tuple[int, int], value: float) -> None:
    got = _named(torch.full((3, *size), value))
    assert np.isfinite(list(got.values())).all()
    assert got["red_mean"] == pytest.approx(value)
    flat = ("std", "skewness", "correlation", "gradient", "contrast", "blob", "entropy")
    assert {name for name, number in got.items() if any(word in name for word in flat) and number != 0} == set()


def test_colours_and_stains_against_numpy(patch: torch.Tensor) -> None:
    got = _named(patch)
    rgb = patch.double().numpy().reshape(3, -1)
    density = -np.log10(np.clip(rgb, 1 / 255, 1))
    hematoxylin, eosin = (np.array(colour) for colour in ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)))
    hematoxylin, eosin = hematoxylin / np.linalg.norm(hematoxylin), eosin / np.linalg.norm(eosin)
    residual = np.cross(hematoxylin, eosin)
    colours = np.stack([hematoxylin, eosin, residual / np.linalg.norm(residual)], axis=1)
    stains, *_ = np.linalg.lstsq(colours, density, rcond=None)
    channels = dict(zip(("red", "green", "blue", "hematoxylin", "eosin", "residual"), [*rgb, *stains], strict=True))
    for name, values in channels.items():
        assert got[f"{name}_mean"] == pytest.approx(values.mean(), abs=1e-4)
        assert got[f"{name}_std"] == pytest.approx(values.std(), abs=1e-4)
        skewness = ((values - values.mean()) ** 3).mean() / values.std() ** 3
        assert got[f"{name}_skewness"] == pytest.approx(skewness, abs=2e-3)
        for percent in (10, 50, 90):  # taken from a sample of 1,024 pixels
            below = (values < got[f"{name}_p{percent}"]).mean()
            assert below == pytest.approx(percent / 100, abs=0.05)
    for one, other in (("red", "green"), ("red", "blue"), ("green", "blue"), ("hematoxylin", "eosin")):
        expected = np.corrcoef(channels[one], channels[other])[0, 1]
        assert got[f"correlation_{one}_{other}"] == pytest.approx(expected, abs=1e-4)
    assert got["tissue_share"] == pytest.approx((density.mean(axis=0) > 0.15).mean(), abs=1e-4)
    assert got["hematoxylin_share"] == pytest.approx((stains[0] > 0.3).mean(), abs=1e-4)
    assert got["eosin_share"] == pytest.approx((stains[1] > 0.15).mean(), abs=1e-4)
    assert got["white_share"] == pytest.approx((rgb.min(axis=0) > 0.9).mean(), abs=1e-4)
    saturation = (rgb.max(axis=0) - rgb.min(axis=0)) / np.maximum(rgb.max(axis=0), 1 / 255)
    assert got["saturation_mean"] == pytest.approx(saturation.mean(), abs=1e-4)
    assert got["saturation_std"] == pytest.approx(saturation.std(), abs=1e-4)
    entropy = {"luminance": (np.array([0.299, 0.587, 0.114]) @ rgb, 1.0), "hematoxylin": (stains[0], 1.5)}
    for name, (values, top) in entropy.items():
        counts, _ = np.histogram(np.clip(values, 0, top * (1 - 1e-9)), bins=32, range=(0, top))
        share = counts[counts > 0] / values.size
        assert got[f"entropy_{name}"] == pytest.approx(-(share * np.log2(share)).sum() / 5, abs=1e-3)


def test_texture_against_numpy(patch: torch.Tensor) -> None:
    got = _named(patch)
    luminance = np.tensordot([0.299, 0.587, 0.114], patch.double().numpy(), axes=1)
    along_x, along_y = ((np.diff(luminance, axis=axis) ** 2).mean() for axis in (1, 0))
    assert got["gradient_luminance"] == pytest.approx(np.sqrt(along_x + along_y), rel=1e-4)
    assert got["gradient_anisotropy"] == pytest.approx((along_x - along_y) / (along_x + along_y), abs=1e-4)
    fine = luminance
    for side_px in (2, 4, 8, 16):
        coarse = fine.reshape(fine.shape[0] // 2, 2, fine.shape[1] // 2, 2).mean(axis=(1, 3))
        lost = np.sqrt(((fine - coarse.repeat(2, axis=0).repeat(2, axis=1)) ** 2).mean())
        assert got[f"contrast_luminance_{side_px}px"] == pytest.approx(lost, rel=1e-3)
        fine = coarse


def test_nuclei_are_counted() -> None:
    """Dark blue discs on pink: as many blobs as discs."""
    rows, columns = np.mgrid[:128, :128]
    image = np.empty((128, 128, 3), dtype=np.uint8)
    image[:] = (240, 190, 215)
    centres = [(22, 22), (18, 90), (62, 50), (98, 22), (102, 102)]  # in the middle of a 4 x 4 block
    for row, column in centres:
        image[(rows - row) ** 2 + (columns - column) ** 2 <= 25] = (70, 50, 130)
    got = _named(to_tensor(image))
    assert got["blob_density"] == pytest.approx(len(centres) / 4)
    assert got["blob_prominence"] == pytest.approx(got["blob_strength"] - got["hematoxylin_mean"], abs=0.01)
    assert got["blob_prominence"] > 0.2


def test_each_patch_stands_alone_and_repeats() -> None:
    batch = torch.rand(9, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    together = _statistics(batch)
    alone = np.concatenate([_statistics(one.unsqueeze(0)) for one in batch])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, _statistics(batch))
