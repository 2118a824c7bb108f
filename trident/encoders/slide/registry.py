"""Names of the slide encoders and the patch encoder that each stands on. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trident.encoders.names import explain_unknown
from trident.encoders.patch.registry import PATCH_ENCODER_NAMES
from trident.errors import NotAvailableError, SettingsError

_MEAN = "mean-"

_PUBLISHED: Mapping[str, str | None] = MappingProxyType(
    {
        "threads": "conch_v15",
        "titan": "conch_v15",
        "prism": "virchow",
        "chief": "ctranspath",
        "gigapath": "gigapath",
        "madeleine": "conch_v1",
        "feather": "conch_v15",
        "feather_uni_v2": "uni_v2",
        "abmil": None,
        "care": "conch_v15",
    }
)
"""Encoders with weights of their own -> the patch encoder they were made with; `abmil` takes any."""

_OLD_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "mean-kaiko-vit8s": "mean-kaiko-vits8",
        "mean-kaiko-vit16s": "mean-kaiko-vits16",
        "mean-kaiko-vit8b": "mean-kaiko-vitb8",
        "mean-kaiko-vit16b": "mean-kaiko-vitb16",
        "mean-kaiko-vit14l": "mean-kaiko-vitl14",
    }
)

SLIDE_ENCODER_NAMES: tuple[str, ...] = (
    *_PUBLISHED,
    *(f"{_MEAN}{patch_encoder}" for patch_encoder in PATCH_ENCODER_NAMES),
    *_OLD_SPELLINGS,
)
"""Every name that is understood, older spellings included, whether this version has the encoder or not."""

AVAILABLE_SLIDE_ENCODERS: tuple[str, ...] = tuple(name for name in SLIDE_ENCODER_NAMES if name.startswith(_MEAN))
"""Names of the encoders that this version has."""


def canonical_name(name: str) -> str:
    """`name` in its present spelling: `mean-kaiko-vit8s` -> `mean-kaiko-vits8`; other names come back as they are."""
    return _OLD_SPELLINGS.get(name, name)


def _patch_encoder_of(name: str) -> str | None:
    return _PUBLISHED.get(name) if name in _PUBLISHED else canonical_name(name).removeprefix(_MEAN)


slide_to_patch_encoder_name: dict[str, str] = {
    name: patch_encoder for name in SLIDE_ENCODER_NAMES if (patch_encoder := _patch_encoder_of(name)) is not None
}
"""Slide encoder -> patch encoder whose features it takes. `abmil` takes any, and is left out."""


def check_available(name: str) -> None:
    """Check that this version has the slide encoder `name`.

    Raises:
        SettingsError: no such encoder; the message offers the closest name.
        NotAvailableError: a known encoder that this version does not have.
    """
    _check_known(name)
    if name not in AVAILABLE_SLIDE_ENCODERS:
        raise NotAvailableError(
            f"slide encoder {name} is not available in this version; available: mean-<patch encoder>, "
            "for example mean-uni_v1"
        )


def required_patch_encoder(name: str) -> str:
    """The patch encoder whose features the slide encoder `name` takes.

    Raises:
        SettingsError: no such slide encoder, or one that takes any features.
    """
    _check_known(name)
    if name not in slide_to_patch_encoder_name:
        raise SettingsError(f"slide encoder {name} takes the features of any patch encoder; name one")
    return slide_to_patch_encoder_name[name]


def _check_known(name: str) -> None:
    if name not in SLIDE_ENCODER_NAMES:
        raise SettingsError(explain_unknown("slide encoder", name, SLIDE_ENCODER_NAMES))
