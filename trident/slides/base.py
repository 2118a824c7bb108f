"""The narrow interface that every slide reader implements.

Conventions, everywhere in the project: a location is (x, y) in level-0 pixels, a size is (width, height) in pixels of
the level at hand, an image is a uint8 array of shape (height, width, 3), RGB.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trident.errors import MissingMppError
from trident.slides.memory import shortage_told
from trident.slides.metadata import magnification_from_mpp

RGBImage = NDArray[np.uint8]

_READING = {
    "read_region": "read a region of it",
    "announce_regions": "read its regions",
    "thumbnail": "make its thumbnail",
}
"""Methods of a slide that take memory -> what they do, for a message."""


class AnnouncedRegions(Protocol):
    """Square regions of one level that were all named beforehand; safe to read from several threads at once."""

    @property
    def read_s(self) -> float:
        """Seconds in which threads waited for the file's bytes, so far, as far as that can be told from decoding."""

    def read(self, index: int, out: RGBImage) -> bool:
        """Read region `index` into `out`, or say False: then `Slide.read_region` must read it."""


class Slide(ABC):
    """One opened whole-slide image; safe to read from several threads at once.

    Where memory does not suffice, every reading method of every reader raises `SlideMemoryError`.
    """

    reader_type: ClassVar[str]

    path: Path
    name: str
    """File name without its extension; names every output of this slide."""
    dimensions: tuple[int, int]
    """(width, height) of level 0."""
    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    properties: Mapping[str, str]
    """Raw vendor metadata as the backend gives it."""
    mpp_or_none: float | None
    """µm/px of level 0 where it is known."""
    mpp_source: str | None
    """Where `mpp_or_none` comes from: a metadata key, or "given" for the user's own value."""
    notes: list[str]
    """What a user should know about how this slide is read (a fallback, a contradiction); kept in its state file."""

    @cached_property
    def timings(self) -> dict[str, float]:
        """Seconds by phase of the work done on this slide since it was opened; see `trident.store.timings`."""
        return {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Have the reader tell a lack of memory as an error of the slide, so that none can forget to."""
        super().__init_subclass__(**options)
        for name, action in _READING.items():
            method = vars(cls).get(name)
            if method is not None:
                setattr(cls, name, _telling_shortage(method, action))

    @property
    def mpp(self) -> float:
        """µm/px of level 0.

        Raises:
            MissingMppError: no usable resolution in the metadata and none given.
        """
        if self.mpp_or_none is None:
            raise MissingMppError(
                self.path,
                "its resolution (µm/px) is not in its metadata; give it in the `mpp` column of --custom_list_of_wsis, "
                "or name the metadata key with --custom_mpp_keys",
            )
        return self.mpp_or_none

    @property
    def magnification(self) -> int:
        """Level-0 magnification (80, 60, 40, 20, 10 or 5) by the µm/px table of the output contract.

        Raises:
            MissingMppError: µm/px unknown, or coarser than 5x.
        """
        return magnification_from_mpp(self.mpp, self.path)

    @abstractmethod
    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        """Pixels of one region, as OpenSlide gives them once alpha is dropped: black beyond the slide.

        Args:
            location: (x, y) of the top-left corner in level-0 pixels; may lie outside the slide.
            level: pyramid level.
            size: (width, height) in pixels of that level.

        Raises:
            UnreadableSlideError: the region does not decode.
        """

    def announce_regions(self, level: int, side_px: int, corners: NDArray[np.int64]) -> AnnouncedRegions | None:
        """A faster way to read many squares of one size, or None where this slide has none.

        Its pixels are those of `read_region`; between two pixels of a level they may differ by one grey level.

        Args:
            level: pyramid level.
            side_px: their side in pixels of that level.
            corners: int (N, 2), (x, y) of each one's top-left corner in level-0 pixels.
        """
        return None

    @abstractmethod
    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        """The whole slide, shrunk to fit into `max_size` (width, height) with its aspect kept."""

    @abstractmethod
    def close(self) -> None:
        """Release the file. Safe to call twice."""

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _telling_shortage(method: Callable[..., Any], action: str) -> Callable[..., Any]:
    @wraps(method)
    def telling(slide: Slide, *arguments: Any, **options: Any) -> Any:
        with shortage_told(slide.path, action):
            return method(slide, *arguments, **options)

    return telling
