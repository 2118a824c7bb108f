"""Names of the patch encoders and what is declared about each. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trident.encoders.names import explain_unknown
from trident.encoders.patch import declarations
from trident.encoders.patch.models import declarations as own_models
from trident.encoders.patch.plugins import declare as declare_plugin
from trident.encoders.patch.plugins import plugin_names
from trident.encoders.patch.spec import PatchEncoderSpec, TransformSpec
from trident.errors import NotAvailableError, SettingsError

__all__ = [
    "AVAILABLE_PATCH_ENCODERS",
    "PATCH_ENCODER_NAMES",
    "SPECS",
    "TIMM_PREFIX",
    "PatchEncoderSpec",
    "TransformSpec",
    "check_known",
    "plugin_names",
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

TIMM_PREFIX = "timm/"
"""What stands before the name of a model that is timm's and is not declared here: `timm/resnet18`."""

_DECLARED = {one.name: one for one in (*declarations.DECLARATIONS, *own_models.DECLARATIONS)}

SPECS: Mapping[str, PatchEncoderSpec] = MappingProxyType(
    {name: _DECLARED[name] for name in PATCH_ENCODER_NAMES if name in _DECLARED}
)
"""The encoders that this version has, by name."""

AVAILABLE_PATCH_ENCODERS: tuple[str, ...] = tuple(SPECS)
"""Names of the encoders that this version has."""


def check_known(name: str) -> None:
    """Raise SettingsError, with the closest name, unless `name` is understood as a patch encoder's.

    Beside `PATCH_ENCODER_NAMES` these are the plugins' names and whatever begins with `timm/`: whether timm has such
    a model is found out by `spec`, which has to import timm for it.
    """
    if name in PATCH_ENCODER_NAMES or name.startswith(TIMM_PREFIX) or name in plugin_names():
        return
    raise SettingsError(explain_unknown("patch encoder", name, (*PATCH_ENCODER_NAMES, *plugin_names())))


def spec(name: str) -> PatchEncoderSpec:
    """The declaration of the patch encoder `name`; for `timm/<model>` timm, and with it torch, is imported.

    Raises:
        SettingsError: no such encoder; the message offers the closest name.
        NotAvailableError: a known encoder that this version does not have.
    """
    check_known(name)
    if name in SPECS:
        return SPECS[name]
    if name.startswith(TIMM_PREFIX):
        from trident.encoders.patch.timm_hub import declare as declare_timm

        return declare_timm(name)
    # A name of this package is never a plugin's, so that a plugin cannot stand in for a published encoder.
    if name not in PATCH_ENCODER_NAMES:
        return declare_plugin(name)
    raise NotAvailableError(
        f"patch encoder {name} is not available in this version; available: {', '.join(AVAILABLE_PATCH_ENCODERS)}"
    )
