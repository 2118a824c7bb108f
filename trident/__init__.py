"""Whole-slide images to tissue, patches, features and slide embeddings.

The names of the Python interface are imported when they are first used, so that `import trident` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "load_wsi": "trident.wsi",
    "WSI": "trident.wsi",
    "OpenSlideWSI": "trident.wsi",
    "CuCIMWSI": "trident.wsi",
    "ImageWSI": "trident.wsi",
    "WSIPatcher": "trident.patcher",
    "Processor": "trident.processor",
    "visualize_heatmap": "trident.viz.heatmap",
}

if TYPE_CHECKING:
    from trident.patcher import WSIPatcher
    from trident.processor import Processor
    from trident.viz.heatmap import visualize_heatmap
    from trident.wsi import WSI, CuCIMWSI, ImageWSI, OpenSlideWSI, load_wsi

__all__ = [
    "WSI",
    "CuCIMWSI",
    "ImageWSI",
    "OpenSlideWSI",
    "Processor",
    "WSIPatcher",
    "__version__",
    "load_wsi",
    "visualize_heatmap",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
