"""trident/encoders/patch/registry.py and declarations.py: the names, and declarations that agree with themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from trident.encoders.patch.registry import AVAILABLE_PATCH_ENCODERS, PATCH_ENCODER_NAMES, SPECS, check_known, spec
from trident.errors import NotAvailableError, SettingsError


def test_names_are_those_of_the_command_line_reference(shared_reference: Path) -> None:
    text = (shared_reference / "quickstart.txt").read_text()
    listed = re.search(r"--patch_encoder \{([^}]*)\}", text)
    assert listed is not None
    assert (*listed.group(1).split(","), "stain-stats") == PATCH_ENCODER_NAMES


def test_every_available_name_is_known() -> None:
    assert set(AVAILABLE_PATCH_ENCODERS) <= set(PATCH_ENCODER_NAMES)
    assert all(spec(name).name == name for name in AVAILABLE_PATCH_ENCODERS)
    assert {"resnet50", "uni_v1", "uni_v2", "gigapath", "lunit-vits8", "stain-stats"} <= set(AVAILABLE_PATCH_ENCODERS)


def test_available_names_are_in_the_order_of_all_names() -> None:
    assert [name for name in PATCH_ENCODER_NAMES if name in SPECS] == list(AVAILABLE_PATCH_ENCODERS) == list(SPECS)


def test_known_but_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {name: declared for name, declared in SPECS.items() if name != "virchow"}
    monkeypatch.setattr("trident.encoders.patch.registry.SPECS", rest)
    with pytest.raises(NotAvailableError, match=r"virchow is not available in this version; available: .*, uni_v1, "):
        spec("virchow")


@pytest.mark.parametrize(("name", "close"), [("univ1", "uni_v1"), ("kaiko_vits8", "kaiko-vits8"), ("UNI-v2", "uni_v2")])
def test_unknown(name: str, close: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown patch encoder .*did you mean {close}"):
        spec(name)


@pytest.mark.parametrize("name", AVAILABLE_PATCH_ENCODERS)
def test_declaration_agrees_with_itself(name: str) -> None:
    declared = SPECS[name]
    assert (declared.repo_id is None) == (declared.filenames == ())
    assert (declared.img_size_multiple is None) == (declared.fixed_size_reason != "")
    if not declared.transform_builder:
        assert (declared.transform.crop_px or declared.transform.resize_px) == declared.input_size_px
    assert (declared.transform.mean is None) == (declared.transform.std is None)
    if declared.img_size_multiple is not None and declared.input_size_px is not None:
        assert declared.input_size_px % declared.img_size_multiple == 0


@pytest.mark.parametrize("name", [name for name, declared in SPECS.items() if declared.repo_id])
def test_builder_exists(name: str) -> None:
    declared = SPECS[name]
    for place in filter(None, (declared.builder, declared.naming, declared.transform_builder)):
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("name", ["uni_v1", "timm/resnet18", "timm/vit_base_patch16_224.augreg_in21k"])
def test_check_known(name: str) -> None:
    check_known(name)


def test_light_import() -> None:
    code = (
        "import sys, trident.encoders.patch.registry, trident.encoders.slide.registry, trident.encoders.weights, "
        "trident.patch_encoder_models, trident.slide_encoder_models.load;"
        "trident.encoders.patch.registry.check_known('timm/resnet18');"
        "heavy = {'torch', 'timm', 'torchvision', 'numpy', 'huggingface_hub', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
