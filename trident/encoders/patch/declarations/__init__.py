"""The patch encoders that libraries can hold, one declaration each. Nothing heavy is imported here.

Names, transforms and dimensions are those under which the encoders were published; the names of modules in `arguments`
(`"SwiGLUPacked"`, `"SiLU"`) are resolved by the builder.
"""

from __future__ import annotations

from trident.encoders.patch.declarations import plain, renamed
from trident.encoders.patch.declarations.common import HALF, IMAGENET_MEAN, IMAGENET_STD
from trident.encoders.patch.spec import PatchEncoderSpec

__all__ = ["DECLARATIONS", "HALF", "IMAGENET_MEAN", "IMAGENET_STD"]

DECLARATIONS: tuple[PatchEncoderSpec, ...] = (*plain.DECLARATIONS, *renamed.DECLARATIONS)
"""Every patch encoder declared here; `registry.SPECS` has the order of the names."""
