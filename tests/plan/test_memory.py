"""GPU memory: parameters by the declaration, against the networks that timm builds (without memory)."""

from __future__ import annotations

import pytest

from trident.encoders.patch.registry import SPECS
from trident.plan.memory import memory_of, vit_shape
from trident.plan.weights import WeightsNeed

_TIMM = ("uni_v1", "uni_v2", "gigapath", "virchow", "hoptimus0", "h0-mini", "phikon", "hibou_l", "kaiko-vits8", "gpfm")


@pytest.mark.parametrize("name", _TIMM)
def test_parameters_are_those_of_the_network(name: str) -> None:
    import timm
    import torch
    from timm.layers.mlp import GluMlp

    declared = SPECS[name]
    sizes = ("embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "img_size", "num_classes", "reg_tokens")
    arguments = {key: value for key, value in declared.arguments.items() if key in sizes}
    if declared.arguments.get("mlp_layer") == "SwiGLUPacked":
        arguments["mlp_layer"] = GluMlp  # the same layers, whatever activation gates them
    with torch.device("meta"):
        model = timm.create_model(declared.architecture, **{"num_classes": 0, **arguments})
    shape = vit_shape(declared)
    assert shape is not None
    assert shape.n_parameters == pytest.approx(sum(one.numel() for one in model.parameters()), rel=0.02)


def _memory(name: str, weights: WeightsNeed | None = None, **options: object) -> tuple[int | None, int | None]:
    usual: dict[str, object] = {"batch_size": 64, "img_size_px": None, "precision": "auto"}
    found = memory_of(SPECS[name], weights, **{**usual, **options})  # type: ignore[arg-type]
    assert found.how
    return found.weights_bytes, found.activations_bytes


def test_activations_grow_with_what_is_computed() -> None:
    weights, usual = _memory("uni_v1")
    assert weights == pytest.approx(4 * 303e6, rel=0.01)
    assert usual is not None
    assert _memory("uni_v1", batch_size=128)[1] == 2 * usual
    assert _memory("uni_v1", precision="float32")[1] > usual  # type: ignore[operator]
    assert _memory("uni_v1", img_size_px=448)[1] > 3 * usual  # type: ignore[operator]


def test_what_is_not_known_is_not_made_up() -> None:
    here = WeightsNeed("conch_v15", "patch_features:conch_v15", "here", "/file", 1_200_000_000)
    assert _memory("conch_v15") == (None, None)
    assert _memory("conch_v15", here) == (1_200_000_000, None)
    assert _memory("stain-stats") == (0, 0)
