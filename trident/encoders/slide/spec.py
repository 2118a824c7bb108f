"""What a slide encoder's declaration says. Plain data: nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class SlideEncoderSpec:
    """Everything that a user must know about a slide encoder, and that its builder needs."""

    name: str
    builder: str
    """`module:function`, imported when the encoder is built: `function(spec, weights_path, **options)` gives the
    `SlideEncoder`; `weights_path` is None where there are no weights. Empty where the encoder is `unavailable`."""
    patch_encoder: str | None
    """The patch encoder whose features it takes; None: any."""
    embedding_dim: int | None
    """Length D of the embedding; None: that of the patch features."""
    precision: Precision = "float32"
    """Autocast type on a GPU; parameters are kept in float32, and a CPU always computes in float32."""
    input_dim: int | None = None
    """Length F of a patch feature vector; None: any."""
    patch_size_px: int | None = None
    """Side of the patches that it was made for, at `magnification`; None: any."""
    magnification: float | None = None
    """Magnification of those patches; None: any."""
    takes_overlap: bool = True
    """False where positions are counted in whole patches, so that overlapping patches would share a position."""
    repo_id: str | None = None
    """Hub repository of the weights; None: they are not on the hub, or there are none."""
    filenames: tuple[str, ...] = ()
    """Names under which the weights are published, best first; empty: the encoder has no weights."""
    companions: tuple[str, ...] = ()
    """Further files of that repository, read where they lie beside the weights."""
    gated: bool = False
    """Whether access to the repository must be asked for."""
    licence: str = "not stated"
    """Licence of the weights, or "not stated"."""
    obtain: str = ""
    """How to come by weights that are not on the hub."""
    weights_optional: bool = False
    """Whether it can be built without weights, to be trained; `options` then say how."""
    remote_code: bool = False
    """Whether the architecture is code in the hub repository, which runs only when the user says so."""
    options: tuple[str, ...] = ()
    """Keyword arguments that the builder takes."""
    unavailable: str = ""
    """Why nobody can run it; empty for every encoder that can be run."""
    weights_kind: Literal["slide"] = "slide"
    """Section of the registry of local weights."""
