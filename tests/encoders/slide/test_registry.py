"""trident/encoders/slide/registry.py: the names, what is declared about each, and the checks before a run."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.encoders.patch.registry import PATCH_ENCODER_NAMES
from trident.encoders.slide.registry import (
    AVAILABLE_SLIDE_ENCODERS,
    SLIDE_ENCODER_NAMES,
    SPECS,
    canonical_name,
    check_available,
    check_grid,
    require_weights,
    required_patch_encoder,
    slide_to_patch_encoder_name,
    spec,
)
from trident.encoders.weights import LOCAL_CKPTS_ENV
from trident.errors import NotAvailableError, SettingsError, WeightsError

PUBLISHED = [name for name in SPECS if not name.startswith("mean-")]


def test_every_name_of_the_command_line_reference_is_understood(shared_reference: Path) -> None:
    listed = re.search(r"--slide_encoder \{([^}]*)\}", (shared_reference / "quickstart.txt").read_text())
    assert listed is not None
    assert set(listed.group(1).split(",")) <= set(SLIDE_ENCODER_NAMES)
    assert len(SLIDE_ENCODER_NAMES) == len(set(SLIDE_ENCODER_NAMES))


def test_names_that_this_version_has() -> None:
    assert sorted(set(SLIDE_ENCODER_NAMES) - set(AVAILABLE_SLIDE_ENCODERS)) == ["threads"]
    assert set(PUBLISHED) == {
        *("threads", "titan", "prism", "chief", "gigapath", "madeleine", "feather", "feather_uni_v2", "abmil", "care")
    }


@pytest.mark.parametrize(
    ("name", "patch_encoder"),
    [
        ("threads", "conch_v15"),
        ("titan", "conch_v15"),
        ("prism", "virchow"),
        ("chief", "ctranspath"),
        ("gigapath", "gigapath"),
        ("madeleine", "conch_v1"),
        ("feather", "conch_v15"),
        ("feather_uni_v2", "uni_v2"),
        ("care", "conch_v15"),
        ("mean-stain-stats", "stain-stats"),
        ("mean-kaiko-vit8s", "kaiko-vits8"),
        ("mean-kaiko-vit14l", "kaiko-vitl14"),
        *((f"mean-{name}", name) for name in PATCH_ENCODER_NAMES[:5]),
    ],
)
def test_required_patch_encoder(name: str, patch_encoder: str) -> None:
    assert required_patch_encoder(name) == patch_encoder == slide_to_patch_encoder_name[name]
    assert patch_encoder in PATCH_ENCODER_NAMES


def test_every_required_patch_encoder_exists() -> None:
    assert set(slide_to_patch_encoder_name.values()) == set(PATCH_ENCODER_NAMES)
    assert set(SLIDE_ENCODER_NAMES) - slide_to_patch_encoder_name.keys() == {"abmil"}


def test_abmil_takes_any() -> None:
    with pytest.raises(SettingsError, match="features of any patch encoder"):
        required_patch_encoder("abmil")


def test_old_spellings() -> None:
    assert canonical_name("mean-kaiko-vit16b") == "mean-kaiko-vitb16"
    assert canonical_name("titan") == "titan"
    means = {canonical_name(name) for name in AVAILABLE_SLIDE_ENCODERS} - set(PUBLISHED)
    assert means == {f"mean-{name}" for name in PATCH_ENCODER_NAMES}
    assert spec("mean-kaiko-vit16b") is SPECS["mean-kaiko-vitb16"]


def test_threads_is_not_published() -> None:
    for check in (check_available, spec, require_weights):
        with pytest.raises(NotAvailableError, match="neither its code nor its weights are published; choose another"):
            check("threads")


@pytest.mark.parametrize("check", [check_available, required_patch_encoder, spec, require_weights])
def test_unknown(check: Callable[[str], object]) -> None:
    with pytest.raises(SettingsError, match="did you mean mean-uni_v1"):
        check("mean-univ1")


@pytest.mark.parametrize(
    ("name", "dim_in", "dim", "patch_size", "mag", "precision"),
    [
        ("titan", 768, 768, 512, 20, "float16"),
        ("prism", 2560, 1280, 224, 20, "float16"),
        ("chief", 768, 768, 256, 10, "float32"),
        ("gigapath", 1536, 768, 256, 20, "float16"),
        ("madeleine", 512, 512, 256, 10, "bfloat16"),
        ("feather", 768, 512, 512, 20, "float32"),
        ("feather_uni_v2", 1536, 512, 256, 20, "float32"),
        ("care", 768, 512, 512, 20, "float32"),
        ("abmil", None, None, None, None, "float32"),
    ],
)
def test_declarations(
    name: str, dim_in: int | None, dim: int | None, patch_size: int | None, mag: float | None, precision: str
) -> None:
    one = spec(name)
    assert (one.input_dim, one.embedding_dim, one.patch_size_px, one.magnification, one.precision) == (
        *(dim_in, dim, patch_size, mag, precision),
    )


@pytest.mark.parametrize("name", AVAILABLE_SLIDE_ENCODERS)
def test_every_builder_exists(name: str) -> None:
    module, _, function = spec(name).builder.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", [name for name in PUBLISHED if SPECS[name].input_dim])
def test_patch_encoders_give_what_is_taken(name: str) -> None:
    from trident.encoders.patch.registry import SPECS as PATCH_SPECS

    assert PATCH_SPECS[required_patch_encoder(name)].embedding_dim == SPECS[name].input_dim


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("titan", (512, 20.0, 0)),
        ("prism", (224, 20, 32)),
        ("chief", (256, 10.0, 128)),
        ("gigapath", (256, 20.0, 0)),
        ("feather", (512, 20.0, 256)),
        ("abmil", (333, 2.5, 100)),
        ("mean-uni_v1", (512, 40.0, 7)),
        ("mean-kaiko-vit8s", (256, 20.0, 0)),
    ],
)
def test_grids_that_fit(name: str, grid: tuple[int, float, int]) -> None:
    check_grid(name, *grid)


@pytest.mark.parametrize(
    ("name", "grid", "expected"),
    [
        ("titan", (256, 20.0, 0), "titan does not take --patch_size 256; give --patch_size 512 --mag 20"),
        ("titan", (512, 40.0, 0), "titan does not take --mag 40; give --patch_size 512 --mag 20"),
        ("chief", (512, 20.0, 0), "take --patch_size 512, --mag 20; give --patch_size 256 --mag 10"),
        ("madeleine", (256, 9.5, 0), "take --mag 9.5; give --patch_size 256 --mag 10"),
        ("prism", (256, 20.0, 0), "give --patch_size 224 --mag 20"),
        ("titan", (512, 20.0, 64), r"take --overlap 64 \(it counts .*\); give --overlap 0"),
        ("gigapath", (256, 20.0, 1), "give --overlap 0"),
        ("care", (256, 20.0, 8), "give --patch_size 512 --mag 20 --overlap 0"),
        ("mean-nothing", (256, 20.0, 0), "unknown slide encoder"),
    ],
)
def test_grids_that_do_not(name: str, grid: tuple[int, float, int], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        check_grid(name, *grid)


def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any]) -> None:
    (tmp_path / "local.json").write_text(json.dumps({"slide": entries}))
    monkeypatch.setenv(LOCAL_CKPTS_ENV, str(tmp_path / "local.json"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chief", "download CHIEF_pretraining.pth from the Google Drive folder .*hms-dbmi/CHIEF"),
        ("abmil", "train it"),
        ("titan", "HF_HUB_OFFLINE forbids the download"),
    ],
)
def test_weights_that_cannot_be_had(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _registry(tmp_path, monkeypatch, {})
    with pytest.raises(WeightsError, match=expected):
        require_weights(name)


def test_weights_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = tmp_path / "CHIEF_pretraining.pth"
    weights.write_bytes(b"anything: it is not read")
    require_weights("mean-uni_v1")
    require_weights("chief", weights)
    require_weights("chief", tmp_path)
    _registry(tmp_path, monkeypatch, {"chief": str(weights), "abmil": str(weights)})
    require_weights("chief")
    require_weights("abmil")
    with pytest.raises(WeightsError, match="no such file"):
        require_weights("chief", tmp_path / "other.pth")


def test_weights_to_download_are_left_to_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    _registry(tmp_path, monkeypatch, {})
    require_weights("titan")


def test_code_must_be_allowed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    _registry(tmp_path, monkeypatch, {})
    with pytest.raises(SettingsError, match=r"Python code in https://huggingface\.co/Zipper-1/CARE, which would run"):
        require_weights("care")
    require_weights("care", trust_remote_code=True)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import trident.encoders.slide.registry, trident.slide_encoder_models; "
        "print(sorted({'torch', 'numpy', 'timm', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
