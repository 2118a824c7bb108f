"""Names of the patch encoders and what is declared about each. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trident.encoders.names import explain_unknown
from trident.encoders.patch.declarations import DECLARATIONS
from trident.encoders.patch.spec import PatchEncoderSpec, TransformSpec
from trident.errors import NotAvailableError, SettingsError

__all__ = [
    "AVAILABLE_PATCH_ENCODERS",
    "PATCH_ENCODER_NAMES",
    "SPECS",
    "PatchEncoderSpec",
    "TransformSpec",
    "check_known",
    "spec",
]

PATCH_ENCODER_NAMES: tuple[str, ...] = (
    "conch_v1",
    "conch_v15",
    "uni_v1",
    "uni_v2",
    "ctranspath",
    "phikon",
    "phikon_v2",
    "resnet50",
    "keep",
    "gigapath",
    "virchow",
    "virchow2",
    "hoptimus0",
    "hoptimus1",
    "h0-mini",
    "musk",
    "openmidnight",
    "gpfm",
    "hibou_l",
    "kaiko-vitb8",
    "kaiko-vitb16",
    "kaiko-vits8",
    "kaiko-vits16",
    "kaiko-vitl14",
    "lunit-vits8",
    "midnight12k",
    "genbio-pathfm",
    "gemma4-e4b",
    "gemma4-26b",
    "stain-stats",
)
"""Every name that is understood, whether this version has the encoder or not."""

SPECS: Mapping[str, PatchEncoderSpec] = MappingProxyType({one.name: one for one in DECLARATIONS})
"""The encoders that this version has, by name."""

AVAILABLE_PATCH_ENCODERS: tuple[str, ...] = tuple(SPECS)
"""Names of the encoders that this version has."""


def check_known(name: str) -> None:
    """Raise SettingsError, with the closest name, unless `name` is a patch encoder's."""
    if name not in PATCH_ENCODER_NAMES:
        raise SettingsError(explain_unknown("patch encoder", name, PATCH_ENCODER_NAMES))


def spec(name: str) -> PatchEncoderSpec:
    """The declaration of the patch encoder `name`.

    Raises:
        SettingsError: no such encoder; the message offers the closest name.
        NotAvailableError: a known encoder that this version does not have.
    """
    check_known(name)
    if name not in SPECS:
        raise NotAvailableError(
            f"patch encoder {name} is not available in this version; available: {', '.join(AVAILABLE_PATCH_ENCODERS)}"
        )
    return SPECS[name]
