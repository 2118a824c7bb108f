"""`stain-stats`: 64 numbers about a patch's colour, stains and texture, without any weights.

A baseline that needs no download, and a stand-in for a network in tests and dry runs. Every number is a fixed formula
of the pixels, so the same patch gives the same vector anywhere. Imports torch: import this module lazily.

Stains: optical density is -log10 of the pixel in [0, 1], and the densities of hematoxylin, eosin and a residual at
right angles to both solve a 3 x 3 linear system (colour deconvolution: Ruifrok and Johnston, Analytical and
Quantitative Cytology and Histology 23(4), 2001, whose stain colours are used).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.patch.spec import PatchEncoderSpec

_CHANNELS = ("red", "green", "blue", "hematoxylin", "eosin", "residual")
_SCALES_PX = (2, 4, 8, 16)
_QUANTILES = (0.1, 0.5, 0.9)

COMPONENT_NAMES: tuple[str, ...] = (
    # Colours in [0, 1], stains in optical density.
    *(f"{channel}_{what}" for channel in _CHANNELS for what in ("mean", "std", "skewness", "p10", "p50", "p90")),
    # Pearson's correlation over the pixels; 0 where a channel is constant.
    "correlation_red_green",
    "correlation_red_blue",
    "correlation_green_blue",
    "correlation_hematoxylin_eosin",
    # Mean squared difference of neighbouring pixels, root taken.
    "gradient_luminance",
    "gradient_hematoxylin",
    "gradient_eosin",
    "gradient_residual",
    # Difference of the gradient's energy along x and along y, over their sum: -1 to 1.
    "gradient_anisotropy",
    # Root mean square of what is lost when blocks of half that side are averaged to blocks of that side.
    *(f"contrast_{channel}_{side}px" for channel in ("luminance", "hematoxylin") for side in _SCALES_PX),
    # Saturation as (max - min) / max of red, green, blue.
    "saturation_mean",
    "saturation_std",
    # Shares of the pixels: mean optical density over 0.15; hematoxylin over 0.3, eosin over 0.15; all colours > 0.9.
    "tissue_share",
    "hematoxylin_share",
    "eosin_share",
    "white_share",
    # Hematoxylin averaged over 12 x 12 px in steps of 4: local maxima that stand 0.05 above the patch's mean, in each
    # 64 x 64 px; their mean, and how far it stands above the patch's.
    "blob_density",
    "blob_strength",
    "blob_prominence",
    # Shannon entropy of a histogram of 32 bins (hematoxylin: of 0 to 1.5 OD), over its largest possible value.
    "entropy_luminance",
    "entropy_hematoxylin",
)
"""What each component of the vector is, in order."""

_HEMATOXYLIN_OD = (0.65, 0.70, 0.29)
_EOSIN_OD = (0.07, 0.99, 0.11)
_DARKEST = 1 / 255  # below this a pixel's optical density would grow without limit
_LUMINANCE = (0.299, 0.587, 0.114)
_ENTROPY_BINS = 32
_HIGHEST_OD = 1.5  # end of the histogram of hematoxylin's density
_TINY = 1e-8
_FLAT = 1e-5  # rounding noise of a constant channel lies below it
_FLAT_VARIANCE = _FLAT**2
_SAMPLES_PER_AXIS = 32  # quantiles of a regular grid of at most 32 x 32 pixels: sorting every pixel takes most time
_PATCHES_AT_ONCE = 4  # more leave the processor's cache, and take longer


class StainStatistics(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> (B, 64) float32, finite for every image; see `COMPONENT_NAMES`."""

    unmixing: Tensor

    def __init__(self) -> None:
        super().__init__()
        hematoxylin = F.normalize(torch.tensor(_HEMATOXYLIN_OD, dtype=torch.float64), dim=0)
        eosin = F.normalize(torch.tensor(_EOSIN_OD, dtype=torch.float64), dim=0)
        residual = F.normalize(torch.linalg.cross(hematoxylin, eosin), dim=0)
        colours = torch.stack([hematoxylin, eosin, residual], dim=1)
        self.register_buffer("unmixing", torch.linalg.inv(colours).float(), persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        """Statistics (B, 64) of patches (B, 3, H, W)."""
        return torch.cat([self._statistics(few.float()) for few in torch.split(batch, _PATCHES_AT_ONCE)])

    def _statistics(self, rgb: Tensor) -> Tensor:
        density = -torch.log10(rgb.clamp(min=_DARKEST, max=1.0))
        stains = torch.einsum("sc,bchw->bshw", self.unmixing, density)
        luminance = torch.einsum("c,bchw->bhw", rgb.new_tensor(_LUMINANCE), rgb)
        hematoxylin, eosin = stains[:, 0], stains[:, 1]
        channels = torch.cat([rgb, stains], dim=1)
        moments = _centred(channels)
        parts = [
            _distribution(channels, *moments),
            _correlations(*moments, pairs=((0, 1), (0, 2), (1, 2), (3, 4))),
            _gradients(luminance, stains),
            _contrasts(luminance),
            _contrasts(hematoxylin),
            _saturation(rgb),
            _shares(rgb, density, hematoxylin, eosin),
            _blobs(hematoxylin),
            _entropy(luminance),
            _entropy(hematoxylin / _HIGHEST_OD),
        ]
        return torch.cat(parts, dim=1)


def _centred(channels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of channels (B, C, H, W): means (B, C), differences from them (B, C, H*W), standard deviations (B, C)."""
    flat = channels.flatten(2)
    mean = flat.mean(dim=2)
    difference = flat - mean.unsqueeze(2)
    variance = (difference * difference).mean(dim=2)
    return mean, difference, torch.where(variance > _FLAT_VARIANCE, variance, 0.0).sqrt()


def _distribution(channels: Tensor, mean: Tensor, difference: Tensor, std: Tensor) -> Tensor:
    cube = (difference * difference * difference).mean(dim=2)
    skewness = torch.where(std > 0, cube / (std**3 + _TINY), 0.0)
    rows, columns = (max(1, -(-side // _SAMPLES_PER_AXIS)) for side in channels.shape[2:])
    sample = channels[:, :, ::rows, ::columns].flatten(2).sort(dim=2).values
    last = sample.shape[2] - 1
    quantiles = [sample[:, :, round(q * last)] for q in _QUANTILES]
    return torch.stack([mean, std, skewness, *quantiles], dim=2).flatten(1)


def _correlations(_mean: Tensor, difference: Tensor, std: Tensor, *, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    found = []
    for one, other in pairs:
        product = std[:, one] * std[:, other]
        covariance = (difference[:, one] * difference[:, other]).mean(dim=1)
        found.append(torch.where(product > 0, covariance / (product + _TINY), 0.0))
    return torch.stack(found, dim=1)


def _mean_of(values: Tensor) -> Tensor:
    """Mean over everything but the batch; 0 where there is nothing (a patch one pixel wide has no neighbours)."""
    flat = values.flatten(1)
    return flat.mean(dim=1) if flat.shape[1] else flat.new_zeros(flat.shape[0])


def _gradient_energy(channel: Tensor) -> tuple[Tensor, Tensor]:
    return _mean_of(channel.diff(dim=2).square()), _mean_of(channel.diff(dim=1).square())


def _gradients(luminance: Tensor, stains: Tensor) -> Tensor:
    along_x, along_y = _gradient_energy(luminance)
    sums = [along_x + along_y, *(sum(_gradient_energy(stain)) for stain in stains.unbind(dim=1))]
    anisotropy = (along_x - along_y) / (along_x + along_y + _TINY)
    return torch.stack([*(torch.as_tensor(energy).sqrt() for energy in sums), anisotropy], dim=1)


def _contrasts(channel: Tensor) -> Tensor:
    """Energy between one scale and the next coarser, by averaging 2 x 2 again and again; 0 beyond the patch's size."""
    found = []
    fine = channel.unsqueeze(1)
    for _ in _SCALES_PX:
        height, width = (side - side % 2 for side in fine.shape[2:])
        if height == 0 or width == 0:
            found.append(channel.new_zeros(channel.shape[0]))
            continue
        even = fine[:, :, :height, :width]
        coarse = F.avg_pool2d(even, 2)
        lost = even - F.interpolate(coarse, scale_factor=2, mode="nearest")
        found.append(torch.where(lost.abs() > _FLAT, lost, 0.0).square().flatten(1).mean(dim=1).sqrt())
        fine = coarse
    return torch.stack(found, dim=1)


def _saturation(rgb: Tensor) -> Tensor:
    brightest, darkest = rgb.amax(dim=1), rgb.amin(dim=1)
    saturation = ((brightest - darkest) / brightest.clamp(min=_DARKEST)).flatten(1)
    mean = saturation.mean(dim=1)
    variance = saturation.square().mean(dim=1) - mean.square()
    return torch.stack([mean, torch.where(variance > _FLAT_VARIANCE, variance, 0.0).sqrt()], dim=1)


def _shares(rgb: Tensor, density: Tensor, hematoxylin: Tensor, eosin: Tensor) -> Tensor:
    masks = [density.mean(dim=1) > 0.15, hematoxylin > 0.3, eosin > 0.15, rgb.amin(dim=1) > 0.9]
    return torch.stack([_mean_of(mask.float()) for mask in masks], dim=1)


def _blobs(hematoxylin: Tensor) -> Tensor:
    """Nuclei, roughly: local maxima of the hematoxylin density at about 2 µm for 20x."""
    block_px = min(4, *hematoxylin.shape[1:])
    blocks = F.avg_pool2d(hematoxylin.unsqueeze(1), block_px)
    smooth = F.avg_pool2d(blocks, 3, stride=1, padding=1, count_include_pad=False)
    highest = F.max_pool2d(smooth, 3, stride=1, padding=1)
    mean = _mean_of(smooth)
    peaks = ((smooth == highest) & (smooth > mean.view(-1, 1, 1, 1) + 0.05)).float()
    count = peaks.flatten(1).sum(dim=1)
    strength = (peaks * smooth).flatten(1).sum(dim=1) / count.clamp(min=1)
    area_px = hematoxylin.shape[1] * hematoxylin.shape[2]
    prominence = torch.where(count > 0, strength - mean, 0.0)
    return torch.stack([count * (64 * 64 / area_px), strength, prominence], dim=1)


def _entropy(channel: Tensor) -> Tensor:
    """Of a channel that lies in [0, 1]; what lies outside counts into the first and last bin."""
    bins = (channel.flatten(1) * _ENTROPY_BINS).long().clamp(0, _ENTROPY_BINS - 1)
    counts = torch.zeros(bins.shape[0], _ENTROPY_BINS, device=bins.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float32))
    share = counts / bins.shape[1]
    entropy = -(share * (share + 1e-12).log2()).sum(dim=1, keepdim=True)
    return (entropy / torch.tensor(float(_ENTROPY_BINS)).log2()).clamp(min=0.0)


def build(_spec: PatchEncoderSpec, _weights: Path | None) -> StainStatistics:
    """The encoder as its declaration asks for it; there are no weights."""
    return StainStatistics()
