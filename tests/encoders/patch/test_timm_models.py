"""trident/encoders/patch/timm_models.py: names and shapes of whole networks, outputs of their first blocks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trident.encoders.patch.declarations.common import TIMM
from trident.encoders.patch.registry import SPECS
from trident.encoders.patch.spec import PatchEncoderSpec
from trident.encoders.patch.timm_models import build, build_keep, build_keep_network, build_network, own_names, pool
from trident.errors import WeightsError

PLAIN = [name for name, declared in SPECS.items() if declared.builder == TIMM and not declared.naming]
RENAMED = [name for name, declared in SPECS.items() if declared.builder == TIMM and declared.naming]

WHOLE_DEPTHS = {"phikon": 12, "phikon_v2": 24, "midnight12k": 40, "hibou_l": 24}

LARGE = pytest.mark.skipif(
    not os.environ.get("TRIDENT_TEST_LARGE"), reason="gigabytes of made-up weights; set TRIDENT_TEST_LARGE=1"
)
DEPTHS = pytest.mark.parametrize("depth", [1, pytest.param(None, marks=LARGE)], ids=["one block", "whole"])

MakeState = Callable[..., dict[str, Tensor]]


def _published(shared_reference: Path, name: str) -> dict[str, tuple[int, ...]]:
    manifest = json.loads((shared_reference / "manifests" / "patch" / f"{name}.json").read_text())
    return {tensor: tuple(shape) for tensor, (_, shape) in manifest["tensors"].items()}


def _used(shapes: dict[str, tuple[int, ...]], declared: PatchEncoderSpec) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(declared.unused_weights)}


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", PLAIN)
def test_names_and_shapes_are_the_published_ones(shared_reference: Path, name: str) -> None:
    declared = SPECS[name]
    network = build_network(declared)
    assert _shapes(network.state_dict()) == _used(_published(shared_reference, name), declared)
    assert next(network.parameters()).is_meta


@pytest.mark.parametrize("name", [*RENAMED, "keep"])
def test_names_and_shapes_fit_after_renaming(shared_reference: Path, name: str) -> None:
    declared = SPECS[name]
    network = build_keep_network(declared) if name == "keep" else build_network(declared)
    meta = {tensor: torch.empty(shape, device="meta") for tensor, shape in _published(shared_reference, name).items()}
    renamed = _shapes(own_names(declared, network, meta))
    assert _shapes(network.state_dict()) == _used(renamed, declared)


@pytest.mark.parametrize("name", [name for name in [*PLAIN, *RENAMED] if name != "resnet50"])
def test_dimension(name: str) -> None:
    declared = SPECS[name]
    side = declared.input_size_px
    assert side is not None
    values = [value for option in declared.options for value in option.values] or [None]
    for value in values:
        options: dict[str, Any] = {option.name: value for option in declared.options}
        with torch.device("meta"):
            features = pool(declared, build_network(declared), **options)(torch.empty(2, 3, side, side))
        assert features.shape == (2, declared.embedding_dim_for(options))


def _first_blocks(name: str, depth: int | None = 1) -> PatchEncoderSpec:
    """The declaration of the encoder's first blocks; None: of all."""
    declared = SPECS[name]
    return declared if depth is None else replace(declared, arguments={**declared.arguments, "depth": depth})


def _write(state: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_file(state, path)
    return path


def _run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        features: Tensor = model(images)
    return features


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))


@DEPTHS
@pytest.mark.parametrize(
    ("name", "heads", "n_prefix", "options"),
    [
        ("virchow", 16, 1, {"return_cls": False}),
        ("virchow", 16, None, {"return_cls": True}),
        ("virchow2", 16, 5, {}),
        ("hoptimus0", 24, None, {}),
        ("h0-mini", 12, None, {"return_type": "cls"}),
        ("h0-mini", 12, 5, {"return_type": "cls+mean"}),
        ("gpfm", 16, None, {}),
        ("openmidnight", 24, None, {}),
    ],
)
def test_against_a_transformer_written_out(
    depth: int | None,
    name: str,
    heads: int,
    n_prefix: int | None,
    options: dict[str, Any],
    images: Tensor,
    tmp_path: Path,
    seeded_state: MakeState,
    plain_vit: Callable[..., Tensor],
) -> None:
    state = seeded_state(name, depth=depth)
    tokens = plain_vit(state, images, heads=heads)
    expected = tokens[:, 0]
    if n_prefix is not None:
        expected = torch.cat([expected, tokens[:, n_prefix:].mean(dim=1)], dim=1)
    declared = _first_blocks(name, depth)
    options = declared.resolve_options(options)
    weights = _write(state, tmp_path)
    model = build(declared, weights, **options)
    weights.unlink()  # gigabytes, where it is the whole network
    got = _run(model, images)
    assert got.shape == expected.shape == (2, declared.embedding_dim_for(options))
    assert not model.training
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("layer_scale", ["gamma", "weight"])
def test_keep(
    layer_scale: str, images: Tensor, tmp_path: Path, seeded_state: MakeState, plain_vit: Callable[..., Tensor]
) -> None:
    state = seeded_state("keep", depth=1)
    hidden = plain_vit(state, images, heads=16, prefix="visual.")[:, 0]
    for layer in (0, 2):
        hidden = hidden @ state[f"visual_head.{layer}.weight"].T + state[f"visual_head.{layer}.bias"]
        if layer == 0:
            hidden = nn.functional.gelu(hidden)
    expected = hidden / hidden.norm(dim=1, keepdim=True)
    # Some copies call the layer scales "weight".
    state = {tensor.replace(".gamma", f".{layer_scale}"): value for tensor, value in state.items()}
    got = _run(build_keep(_first_blocks("keep", depth=1), _write(state, tmp_path)), images)
    assert (got - expected).abs().max() <= 1e-6
    assert torch.allclose(got.norm(dim=1), torch.ones(2))


def _transformers_model(name: str, image_px: int, depth: int) -> nn.Module:
    import transformers

    common = {"num_hidden_layers": depth, "image_size": image_px}
    if name == "phikon":
        config = transformers.ViTConfig(layer_norm_eps=1e-12, **common)
        return transformers.ViTModel(config, add_pooling_layer=False)
    if name == "phikon_v2":
        return transformers.Dinov2Model(
            transformers.Dinov2Config(hidden_size=1024, num_attention_heads=16, patch_size=16, **common)
        )
    if name == "midnight12k":
        return transformers.Dinov2Model(
            transformers.Dinov2Config(
                hidden_size=1536, num_attention_heads=24, patch_size=14, use_swiglu_ffn=True, **common
            )
        )
    return transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(
            hidden_size=1024,
            num_attention_heads=16,
            patch_size=14,
            use_swiglu_ffn=True,
            num_register_tokens=4,
            **common,
        )
    )


def _published_by(model: nn.Module, folder: Path) -> Path:
    """Weights that are not the initial ones, saved by transformers itself under the names of publication."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise / tensor[0].numel() ** 0.5 if tensor.ndim == 2 else tensor + 0.05 * noise)
    model.eval().save_pretrained(folder)  # type: ignore[operator]
    return folder / "model.safetensors"


@DEPTHS
@pytest.mark.parametrize(
    ("name", "image_px", "options"),
    [
        ("phikon", 224, {}),
        ("phikon_v2", 224, {}),
        ("phikon_v2", 352, {}),  # the position table of another input size
        ("midnight12k", 224, {"return_type": "cls+mean"}),
        ("hibou_l", 224, {}),
        ("hibou_l", 518, {}),
    ],
)
def test_against_transformers(
    depth: int | None, name: str, image_px: int, options: dict[str, Any], images: Tensor, tmp_path: Path
) -> None:
    reference = _transformers_model(name, image_px, depth or WHOLE_DEPTHS[name])
    weights = _published_by(reference, tmp_path)
    with torch.inference_mode():
        tokens = reference(images).last_hidden_state
    expected = tokens[:, 0]
    if options.get("return_type") == "cls+mean":
        expected = torch.cat([expected, tokens[:, 1:].mean(dim=1)], dim=1)
    del reference
    got = _run(build(_first_blocks(name, depth), weights, **options), images)
    weights.unlink()
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["phikon", "midnight12k", "openmidnight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path, seeded_state: MakeState) -> None:
    state = seeded_state(name, depth=1)
    del state[next(tensor for tensor in state if tensor.endswith("norm.weight"))]
    path = _write(state, tmp_path)
    with pytest.raises(WeightsError) as caught:
        build(_first_blocks(name), path)
    assert str(path) in str(caught.value)
    assert "tensors are missing: norm.weight" in str(caught.value)
