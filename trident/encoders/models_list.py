"""Every model that has weights: patch encoders, slide encoders, segmenters. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence

from trident.encoders.names import explain_unknown
from trident.encoders.weights import WeightsSource
from trident.errors import SettingsError


def models_with_weights() -> dict[str, WeightsSource]:
    """`kind/name` -> declaration, such as `patch/uni_v1`, in the order patch, slide, segmentation."""
    from trident.encoders.patch.registry import SPECS as PATCH
    from trident.encoders.slide.registry import SPECS as SLIDE
    from trident.segmentation.spec import SPECS as SEGMENTATION

    declared: list[WeightsSource] = [*PATCH.values(), *SLIDE.values(), *SEGMENTATION.values()]
    return {f"{one.weights_kind}/{one.name}": one for one in declared if one.filenames}


def choose_models(names: Sequence[str]) -> dict[str, WeightsSource]:
    """The models that a user names: `uni_v1`, or `slide/gigapath` where two kinds share a name; none: all.

    Raises:
        SettingsError: a name is unknown, or several kinds have it.
    """
    known = models_with_weights()
    if not names:
        return known
    chosen = {}
    for name in names:
        keys = [key for key in known if name in (key, key.partition("/")[2])]
        if not keys:
            raise SettingsError(
                explain_unknown("model with weights", name, sorted({k.partition("/")[2] for k in known}))
            )
        if len(keys) > 1:
            raise SettingsError(f"{name} is the name of several models; say which: {', '.join(keys)}")
        chosen[keys[0]] = known[keys[0]]
    return chosen
