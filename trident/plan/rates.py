"""Arithmetic of time: from what stages took earlier to what they will take. Nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StageRate:
    """How long a stage takes for one slide: `slide_s + units * (unit_s + own_unit_s)` seconds.

    Attributes:
        unit: what is counted: `patches`, or `megapixels` of level 0.
        slide_s: for each slide, however large.
        unit_s: for each unit; of patch features, waiting for patches, which several encoders of a pass share.
        own_unit_s: for each unit, of this encoder alone.
        load_s: for loading the model, once in each process.
        basis: where this is known from, for people.
    """

    unit: str
    slide_s: float
    unit_s: float
    own_unit_s: float = 0.0
    load_s: float = 0.0
    basis: str = ""

    def seconds(self, units: float) -> float:
        """For one slide, without loading the model."""
        return self.slide_s + units * (self.unit_s + self.own_unit_s)


def seconds_of_pass(rates: Sequence[StageRate], n_patches: int) -> float:
    """For the patch features of one slide with several encoders: patches are read once, and encoded by each."""
    shared = max((rate.slide_s + rate.unit_s * n_patches for rate in rates), default=0.0)
    return shared + sum(rate.own_unit_s * n_patches for rate in rates)


def fitted(units: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(seconds a slide, seconds a unit), neither negative, by least squares over slides of different sizes.

    With sizes that are all alike nothing tells the two apart: then all time counts as the units'.

    Raises:
        ValueError: no slide, or lists of two lengths.
    """
    if len(units) != len(seconds) or not units:
        raise ValueError(f"{len(units)} sizes and {len(seconds)} durations")
    n, total_units, total_s = len(units), sum(units), sum(seconds)
    mean_units, mean_s = total_units / n, total_s / n
    spread = sum((one - mean_units) ** 2 for one in units)
    if total_units <= 0:
        return mean_s, 0.0
    if spread <= 1e-9 * mean_units**2 * n:
        return 0.0, total_s / total_units
    slope = sum((u - mean_units) * (s - mean_s) for u, s in zip(units, seconds, strict=True)) / spread
    if slope <= 0:
        return mean_s, 0.0
    intercept = mean_s - slope * mean_units
    return (intercept, slope) if intercept >= 0 else (0.0, total_s / total_units)


def wall_seconds(work_s: float, n_slides: int, slots: int, load_s: float) -> float:
    """Time of a run on the clock.

    Args:
        work_s: of all stages of all slides together.
        n_slides: slides to work on.
        slots: slides worked on at once.
        load_s: of loading all models, which every process does at the same time.
    """
    return load_s + work_s / max(1, min(slots, n_slides))


def missing_rates(keys: Sequence[str], rates: Mapping[str, StageRate]) -> list[str]:
    """Those stages of which nothing is known."""
    return [key for key in keys if key not in rates]
