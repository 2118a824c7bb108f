"""The networks against the published names, the reference's outputs, and the libraries' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from trident.errors import WeightsError
from trident.segmentation.networks import build_network, load_network
from trident.segmentation.registry import segmentation_model_factory
from trident.segmentation.spec import GRANDQC, GRANDQC_ARTIFACT, HEST, SPECS
from trident.slides.registry import open_slide

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def manifest(shared_reference: Path) -> Callable[[str], dict]:
    return lambda name: json.loads((shared_reference / "manifests" / "patch" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def seeded(manifest: Callable[[str], dict], shared_tools: Path) -> Callable[[str], State]:
    """Function (name): made-up weights under the published names; floating tensors only."""
    found = spec_from_file_location("seeded_weights", shared_tools / "seeded_weights.py")
    assert found is not None and found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return lambda name: module.state_dict(manifest(name))


def _as_published(name: str, state: State) -> dict[str, object]:
    """As the file in the repository is wrapped."""
    if name != "hest":
        return dict(state)
    training_only = {
        "aux_classifier.0.weight": torch.zeros(2, 2),
        "aux_classifier.1.num_batches_tracked": torch.tensor(1),
    }
    whole = {f"model.{key}": tensor for key, tensor in {**state, **training_only}.items()}
    return {"epoch": 3, "global_step": 10, "state_dict": whole, "hyper_parameters": {"lr": 1e-4, "tags": ["v4"]}}


def _image(shared_reference: Path) -> Image.Image:
    return Image.open(shared_reference / "patch512.png").convert("RGB")


@pytest.mark.parametrize("name", SPECS)
def test_names_and_shapes_are_the_published_ones(manifest: Callable[[str], dict], name: str) -> None:
    network = build_network(SPECS[name])
    found = {
        key: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for key, tensor in network.state_dict().items()
    }
    assert found == manifest(name)["tensors"]
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    published = manifest(name)["checkpoint"]
    assert (published["repo"], published["file"]) == (SPECS[name].repo_id, SPECS[name].filenames[0])


@pytest.mark.parametrize(("name", "mask_mean"), [("hest", 0.9840126037597656), ("grandqc", 0.9961814880371094)])
def test_fingerprint(
    shared_reference: Path, seeded: Callable[[str], State], tmp_path: Path, name: str, mask_mean: float
) -> None:
    expected = np.load(shared_reference / "expected" / "patch" / f"{name}.npy")
    torch.save(_as_published(name, seeded(name)), tmp_path / SPECS[name].filenames[0])
    segmenter = segmentation_model_factory(name, weights_path=tmp_path)
    got = segmenter.probabilities(segmenter.eval_transforms(_image(shared_reference)).unsqueeze(0)).numpy()
    assert got.shape == (1, 2, 512, 512)
    assert np.abs(got[0, :, ::16, ::16] - expected).max() <= 1e-4 * np.abs(expected).max()
    tissue = got[0, 1] > 0.5 if name == "hest" else got[0, 0] >= 0.5
    assert tissue.mean() == pytest.approx(mask_mean, abs=1e-5)


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
def test_artifact_model_is_the_librarys(shared_reference: Path, seeded: Callable[[str], State], tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    save_file(seeded("grandqc_artifact"), tmp_path / "any.safetensors")
    segmenter = segmentation_model_factory("grandqc_artifact", weights_path=tmp_path / "any.safetensors")
    image = _image(shared_reference)
    got = segmenter.probabilities(segmenter.eval_transforms(image).unsqueeze(0)).numpy()

    whole = smp.Unet(encoder_name="timm-efficientnet-b0", encoder_weights=None, classes=8, activation=None)
    missing = whole.load_state_dict(seeded("grandqc_artifact") | _counters(whole), strict=True)
    assert not missing.missing_keys
    pixels = (np.asarray(image) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        logits = whole.eval()(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))).numpy()
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    assert got.shape == (1, 8, 512, 512)
    assert np.abs(got - shares).max() <= 1e-4 * shares.max()


def test_a_file_is_segmented_as_by_hand(
    drawn_slides: Callable[..., Path], seeded: Callable[[str], State], tmp_path: Path
) -> None:
    import openslide

    torch.save(seeded("grandqc_artifact"), tmp_path / "GrandQC_MPP1_state_dict.pth")
    segmenter = segmentation_model_factory("grandqc_artifact", weights_path=tmp_path)
    path = drawn_slides(tmp_path, "a.svs") / "a.svs"
    with open_slide(path) as slide:
        mask = segmenter.segment(slide).mask
    with openslide.OpenSlide(path) as slide:  # 40x, and its second level is at 10x
        tile = np.array(slide.read_region((0, 0), 1, (512, 512)))[..., :3]
    pixels = (tile / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        logits = segmenter.model(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
    expected = logits.argmax(dim=1)[0].numpy()[:192, :256] <= 1
    assert mask.shape == (192, 256)
    assert 0 < expected.mean() < 1
    assert (mask != expected).mean() < 1e-4  # two classes may be as good as equal


def _counters(network: nn.Module) -> State:
    return {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}


def test_parameters_are_float32_and_fixed(seeded: Callable[[str], State], tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in seeded("grandqc").items()}
    torch.save({"state_dict": half}, tmp_path / "half.pth")
    network = load_network(GRANDQC, tmp_path / "half.pth")
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("segmentation_head.0.bias"), "1 of 420 tensors are missing: segmentation_head.0.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 are unexpected: extra"),
        (
            lambda state: state.update({"segmentation_head.0.bias": torch.zeros(2)}),
            "segmentation_head.0.bias is (2,) instead of (8,)",
        ),
    ],
)
def test_other_tensors_are_refused(
    seeded: Callable[[str], State], tmp_path: Path, change: Callable[[State], object], expected: str
) -> None:
    state = seeded("grandqc_artifact")
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load_network(GRANDQC_ARTIFACT, tmp_path / "w.pth")
    assert expected in str(caught.value)
    assert str(tmp_path / "w.pth") in str(caught.value)


def test_a_name_is_shortened_only_at_its_beginning(seeded: Callable[[str], State], tmp_path: Path) -> None:
    state = seeded("hest")
    state["backbone.model.conv1.weight"] = state.pop("backbone.conv1.weight")
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=r"1 are unexpected: backbone\.model\.conv1\.weight"):
        load_network(HEST, tmp_path / "w.ckpt")
