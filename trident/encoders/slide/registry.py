"""Names of the slide encoders and what is declared about each. Nothing heavy is imported here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from trident.encoders.names import explain_unknown
from trident.encoders.patch.registry import PATCH_ENCODER_NAMES
from trident.encoders.patch.registry import SPECS as PATCH_SPECS
from trident.encoders.slide.declarations import DECLARATIONS
from trident.encoders.slide.large_declarations import DECLARATIONS as LARGE_DECLARATIONS
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import NotAvailableError, SettingsError, WeightsError

__all__ = [
    "AVAILABLE_SLIDE_ENCODERS",
    "SLIDE_ENCODER_NAMES",
    "SPECS",
    "SlideEncoderSpec",
    "canonical_name",
    "check_available",
    "check_grid",
    "require_weights",
    "required_patch_encoder",
    "slide_to_patch_encoder_name",
    "spec",
]

_MEAN = "mean-"

_OLD_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "mean-kaiko-vit8s": "mean-kaiko-vits8",
        "mean-kaiko-vit16s": "mean-kaiko-vits16",
        "mean-kaiko-vit8b": "mean-kaiko-vitb8",
        "mean-kaiko-vit16b": "mean-kaiko-vitb16",
        "mean-kaiko-vit14l": "mean-kaiko-vitl14",
    }
)


def _mean_of(patch_encoder: str) -> SlideEncoderSpec:
    """The mean over the patches: it takes any grid, and its weights are those of the patch encoder."""
    declared = PATCH_SPECS.get(patch_encoder)
    dim = None if declared is None else declared.embedding_dim
    return SlideEncoderSpec(
        name=f"{_MEAN}{patch_encoder}",
        builder="trident.encoders.slide.mean:build",
        patch_encoder=patch_encoder,
        embedding_dim=dim,
        licence="no weights",
    )


SPECS: Mapping[str, SlideEncoderSpec] = MappingProxyType(
    {one.name: one for one in (*DECLARATIONS, *LARGE_DECLARATIONS, *map(_mean_of, PATCH_ENCODER_NAMES))}
)
"""What is declared, by name in its present spelling."""

SLIDE_ENCODER_NAMES: tuple[str, ...] = (*SPECS, *_OLD_SPELLINGS)
"""Every name that is understood, older spellings included, whether anybody can run the encoder or not."""


def canonical_name(name: str) -> str:
    """`name` in its present spelling: `mean-kaiko-vit8s` -> `mean-kaiko-vits8`; other names come back as they are."""
    return _OLD_SPELLINGS.get(name, name)


AVAILABLE_SLIDE_ENCODERS: tuple[str, ...] = tuple(
    name for name in SLIDE_ENCODER_NAMES if not SPECS[canonical_name(name)].unavailable
)
"""Names of the encoders that this version has."""

slide_to_patch_encoder_name: dict[str, str] = {
    name: patch_encoder
    for name in SLIDE_ENCODER_NAMES
    if (patch_encoder := SPECS[canonical_name(name)].patch_encoder) is not None
}
"""Slide encoder -> patch encoder whose features it takes. `abmil` takes any, and is left out."""


def spec(name: str) -> SlideEncoderSpec:
    """The declaration of the slide encoder `name`, in whichever spelling.

    Raises:
        SettingsError: no such encoder; the message offers the closest name.
        NotAvailableError: an encoder that nobody can run.
    """
    declared = _known(name)
    if declared.unavailable:
        raise NotAvailableError(
            f"slide encoder {name} is not available: {declared.unavailable}; choose another, for example titan or "
            f"mean-{declared.patch_encoder}"
        )
    return declared


def check_available(name: str) -> None:
    """Check that the slide encoder `name` can be built; raises as `spec`."""
    spec(name)


def required_patch_encoder(name: str) -> str:
    """The patch encoder whose features the slide encoder `name` takes.

    Raises:
        SettingsError: no such slide encoder, or one that takes any features.
    """
    patch_encoder = _known(name).patch_encoder
    if patch_encoder is None:
        raise SettingsError(f"slide encoder {name} takes the features of any patch encoder; name one")
    return patch_encoder


def check_grid(name: str, patch_size: int, mag: float, overlap: int) -> None:
    """Check that patches of this grid are what the slide encoder `name` was made for.

    Args:
        name: slide encoder.
        patch_size: side of a patch in pixels at `mag`.
        mag: magnification of the patches.
        overlap: overlap of neighbouring patches in pixels at `mag`.

    Raises:
        SettingsError: another patch size or magnification, or overlap where positions are counted in whole patches;
            the message names the right values.
    """
    declared = _known(name)
    wrong, right = [], []
    if declared.patch_size_px is not None and patch_size != declared.patch_size_px:
        wrong.append(f"--patch_size {patch_size}")
    if declared.magnification is not None and mag != declared.magnification:
        wrong.append(f"--mag {mag:g}")
    if wrong:
        right.append(f"--patch_size {declared.patch_size_px} --mag {declared.magnification:g}")
    if overlap and not declared.takes_overlap:
        wrong.append(
            f"--overlap {overlap} (it counts positions in whole patches, and overlapping ones would share one)"
        )
        right.append("--overlap 0")
    if wrong:
        raise SettingsError(f"slide encoder {name} does not take {', '.join(wrong)}; give {' '.join(right)}")


def require_weights(name: str, weights_path: Path | str | None = None, *, trust_remote_code: bool = False) -> None:
    """Check, without torch and without any network, that the weights of `name` are here or can be downloaded.

    Raises:
        SettingsError: no such encoder, a path for an encoder without weights, or code that is not allowed to run.
        NotAvailableError: an encoder that nobody can run.
        WeightsError: the weights are neither on this machine nor to be had, or a path is wrong.
    """
    from trident.encoders import weights

    declared = spec(name)
    if declared.remote_code:
        check_trusted(declared, trust_remote_code)
    if not declared.filenames and weights_path is None:
        return
    if weights.locate(declared, weights_path) is not None:
        return
    if declared.repo_id is None:
        raise missing_weights(declared)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise WeightsError(
            f"slide encoder {name}: weights {declared.filenames[0]} of https://huggingface.co/{declared.repo_id} are "
            "not on this machine, and HF_HUB_OFFLINE forbids the download; download them elsewhere and name the file "
            f"in a registry named by {weights.LOCAL_CKPTS_ENV}"
        )


def check_trusted(declared: SlideEncoderSpec, trust_remote_code: bool, folder: Path | None = None) -> None:
    """Check that the user allows code that is not ours to run: that of `folder`, else that of the hub repository.

    Raises:
        SettingsError: it is not allowed; the message says what would run.
    """
    if trust_remote_code is not True:
        where = f"https://huggingface.co/{declared.repo_id}" if folder is None else str(folder)
        raise SettingsError(
            f"slide encoder {declared.name} is Python code in {where}, which would run on this machine with your "
            "rights; read it, and if you trust it pass trust_remote_code=True in Python"
        )


def missing_weights(declared: SlideEncoderSpec) -> WeightsError:
    """The error for weights that are not on the hub and that nobody has named."""
    from trident.encoders.weights import LOCAL_CKPTS_ENV

    return WeightsError(
        f"slide encoder {declared.name} needs weights that are not on the hub: {declared.obtain}, then name the file "
        f'in a registry named by {LOCAL_CKPTS_ENV}: {{"slide": {{"{declared.name}": "/path/to/file"}}}}, or in Python '
        "give it as weights_path"
    )


def _known(name: str) -> SlideEncoderSpec:
    if name not in SLIDE_ENCODER_NAMES:
        raise SettingsError(explain_unknown("slide encoder", name, SLIDE_ENCODER_NAMES))
    return SPECS[canonical_name(name)]
