"""trident/encoders/slide/registry.py: the names, and the patch encoder that each needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trident.encoders.patch.registry import PATCH_ENCODER_NAMES
from trident.encoders.slide.registry import (
    AVAILABLE_SLIDE_ENCODERS,
    SLIDE_ENCODER_NAMES,
    canonical_name,
    check_available,
    required_patch_encoder,
    slide_to_patch_encoder_name,
)
from trident.errors import NotAvailableError, SettingsError


def test_every_name_of_the_command_line_reference_is_understood(shared_reference: Path) -> None:
    listed = re.search(r"--slide_encoder \{([^}]*)\}", (shared_reference / "quickstart.txt").read_text())
    assert listed is not None
    assert set(listed.group(1).split(",")) <= set(SLIDE_ENCODER_NAMES)
    assert len(SLIDE_ENCODER_NAMES) == len(set(SLIDE_ENCODER_NAMES))


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
    assert {canonical_name(name) for name in AVAILABLE_SLIDE_ENCODERS} == {f"mean-{x}" for x in PATCH_ENCODER_NAMES}


@pytest.mark.parametrize("name", ["titan", "abmil", "care", "gigapath"])
def test_known_but_missing(name: str) -> None:
    with pytest.raises(NotAvailableError, match=f"slide encoder {name} is not available in this version"):
        check_available(name)


@pytest.mark.parametrize("check", [check_available, required_patch_encoder])
def test_unknown(check: object) -> None:
    with pytest.raises(SettingsError, match="did you mean mean-uni_v1"):
        check("mean-univ1")  # type: ignore[operator]
