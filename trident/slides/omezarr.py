"""Slides in OME-Zarr (OME-NGFF): a folder of chunks, read with zarr. Imported when such a slide is opened."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides import ngff
from trident.slides.base import RGBImage
from trident.slides.diagnosis import one_line
from trident.slides.limits import MAX_TILE_PX
from trident.slides.ngff import NgffError
from trident.slides.pyramid_reader import Box, Facts, PyramidSlide

_SAFE_CODECS = frozenset(
    {
        *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
        *("bytes", "crc32c", "sharding_indexed", "transpose"),
        *("delta", "shuffle", "fletcher32", "adler32", "crc32", "imagecodecs_jpeg", "imagecodecs_jpeg2k"),
    }
)
"""Codecs that decode pixels and nothing else. Version 2 of Zarr may name `pickle`, which runs code from the file."""

# zarr hands on what its parsers, its codecs and the file system raise.
_ZARR_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)


class OmeZarrSlide(PyramidSlide):
    """One image of an OME-Zarr folder, version 0.1 to 0.5, in Zarr format 2 or 3.

    The folder may hold the image itself or several images (the layout of bioformats2raw): then the first is read. An
    image inside can be named too (`slide.ome.zarr/1`). Channels, time points and focal planes are chosen by
    `ngff.choose_planes`; levels that have not the same ones are left out (`ngff.levels_of_same_planes`). 16-bit pixels
    are scaled linearly by `ngff.value_range`. Chunks that were never written are black.

    Args:
        path: the folder.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the folder's name without its extension.

    Raises:
        UnreadableSlideError: not an OME-Zarr image, or one whose pixels are not grey or RGB of 8 or 16 bits.
        NotAvailableError: zarr is not installed.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    reader_type: ClassVar[str] = "omezarr"

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        custom_mpp_keys: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        path = Path(path)
        try:
            group, attributes, notes = _image_group(_root_group(path))
            multiscale = ngff.parse_multiscale(attributes)
            arrays = [_checked_array(group, dataset.path, multiscale.axes) for dataset in multiscale.datasets]
            kept, notes_on_levels = ngff.levels_of_same_planes(multiscale.axes, [array.shape for array in arrays])
            arrays = [arrays[level] for level in kept]
            multiscale = replace(multiscale, datasets=tuple(multiscale.datasets[level] for level in kept))
            counts = dict(zip(multiscale.axes, arrays[0].shape, strict=True))
            self._planes = ngff.choose_planes(attributes, counts)
            sizes = [
                (array.shape[multiscale.axes.index("x")], array.shape[multiscale.axes.index("y")]) for array in arrays
            ]
            _check_order(sizes)
            downsamples, more_notes = ngff.level_downsamples(multiscale, sizes)
        except NgffError as error:
            raise UnreadableSlideError(path, f"{error}; fetch it again or use another reader") from error
        self._axes = multiscale.axes
        self._tables = [_to_8_bits(array.dtype, attributes) for array in arrays]
        notes = [*notes, *self._planes.notes, *notes_on_levels, *more_notes]
        if arrays[0].dtype != np.uint8:
            low, high = ngff.value_range(attributes, np.iinfo(arrays[0].dtype).max)
            notes.append(f"its {arrays[0].dtype} values {low:g} to {high:g} are scaled to 0 to 255")
        facts = Facts(sizes, downsamples, _properties(multiscale, arrays[0], counts), notes)
        super().__init__(path, arrays, facts, mpp=mpp, custom_mpp_keys=custom_mpp_keys, name=name)

    def _read_box(self, handle: Any, level: int, box: Box) -> RGBImage:
        wanted: dict[str, int | slice] = {
            "t": self._planes.t,
            "z": self._planes.z,
            "c": slice(0, max(self._planes.channels) + 1),
            "y": slice(box.top, box.top + box.height),
            "x": slice(box.left, box.left + box.width),
        }
        try:
            pixels = np.asarray(handle[level][tuple(wanted[axis] for axis in self._axes)])
        except _ZARR_ERRORS as error:
            where = f"the {box.width} x {box.height} px region at ({box.left}, {box.top}) of level {level}"
            raise UnreadableSlideError(
                self.path, f"{where} does not decode ({one_line(error)}); fetch the slide again or leave it out"
            ) from error
        axes = [axis for axis in self._axes if axis in "cyx"]
        if "c" not in axes:
            axes.append("c")
            pixels = pixels[..., np.newaxis]
        pixels = pixels.transpose([axes.index(axis) for axis in "yxc"])
        pixels = pixels[..., list(self._planes.channels)]
        table = self._tables[level]
        pixels = pixels if table is None else table[pixels]
        return np.ascontiguousarray(np.broadcast_to(pixels, (box.height, box.width, 3)))


def _root_group(path: Path) -> Any:
    """The folder as a Zarr group.

    Raises:
        NotAvailableError: zarr is not installed.
        UnreadableSlideError: no such folder, or it is not a Zarr group.
    """
    try:
        import zarr
        from zarr.storage import LocalStore  # zarr 2 has none
    except ImportError as error:
        raise NotAvailableError(
            f"{path}: reading OME-Zarr needs zarr 3, so Python 3.11 or newer ({one_line(error)}); "
            "pip install 'trident-luigi[omezarr]'"
        ) from error
    if not path.is_dir():
        problem = "it is a file; an OME-Zarr slide is a folder" if path.exists() else "no such folder"
        raise UnreadableSlideError(path, f"{problem}; check the path")
    try:
        store = LocalStore(path, read_only=True)
        # Consolidated metadata is a copy of the rest, which may be out of date.
        return zarr.open_group(store, mode="r", use_consolidated=False)
    except _ZARR_ERRORS as error:
        raise UnreadableSlideError(
            path, f"it does not open as a Zarr group ({one_line(error)}); fetch it again or check the path"
        ) from error


def _image_group(root: Any) -> tuple[Any, Mapping[str, Any], list[str]]:
    """The group with the image, its OME attributes, and what a user should know about the choice.

    Raises:
        NgffError: there is no image, or a plate of many.
    """
    attributes = ngff.ome_attributes(root.attrs.asdict())
    if "multiscales" in attributes:
        return root, attributes, []
    if "plate" in attributes or "well" in attributes:
        raise NgffError("it is a plate with many wells, not one slide; name one image inside it")
    listed = _subgroup_attributes(root, "OME").get("series")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    for name in names or ["0"]:
        found = _subgroup_attributes(root, name)
        if "multiscales" in found:
            others = len(names) - 1
            notes = [f"image {name} is read; the folder holds {others} more"] if others > 0 else []
            return root[name], found, notes
    raise NgffError("it has no `multiscales` and holds no image `0` that has, so it is no OME-Zarr image")


def _subgroup_attributes(root: Any, name: str) -> Mapping[str, Any]:
    try:
        return ngff.ome_attributes(root[name].attrs.asdict())
    except _ZARR_ERRORS:
        return {}  # not there, or not readable: the caller says that no image was found


def _checked_array(group: Any, name: str, axes: str) -> Any:
    """One level, after everything that its metadata claims was looked at.

    Raises:
        NgffError: it is absent, not of this many axes, not of whole numbers of 8 or 16 bits, or not safe to decode.
    """
    try:
        array = group[name]
        shape, dtype, chunks, metadata = array.shape, array.dtype, array.chunks, array.metadata.to_dict()
    except _ZARR_ERRORS as error:
        raise NgffError(f"its level {name!r} does not open ({one_line(error)})") from error
    if len(shape) != len(axes) or min(shape, default=0) < 1:
        raise NgffError(f"its level {name!r} has the shape {shape}, which does not fit the axes {', '.join(axes)}")
    if dtype not in (np.uint8, np.uint16):
        raise NgffError(f"its pixels are {dtype}, not whole numbers of 8 or 16 bits without sign")
    if int(np.prod(chunks, dtype=object)) > 4 * MAX_TILE_PX:
        raise NgffError(f"its level {name!r} has chunks of {chunks}, too many pixels to decode at once")
    unsafe = sorted(_codec_names(metadata) - _SAFE_CODECS)
    if unsafe:
        raise NgffError(f"its level {name!r} is stored with the codec {', '.join(unsafe)}, which is not read")
    return array


def _codec_names(value: Any) -> set[str]:
    """Names of all codecs in an array's metadata, of either Zarr format, also those inside shards."""
    found: set[str] = set()
    listed: Iterable[Any] = ()
    if isinstance(value, Mapping):
        nested = [value.get(key) for key in ("codecs", "index_codecs", "filters")]
        listed = [value.get("compressor"), *(item for items in nested if isinstance(items, Sequence) for item in items)]
    for codec in listed:
        if isinstance(codec, Mapping):
            found.add(str(codec.get("id", codec.get("name"))).removeprefix("numcodecs."))
            found |= _codec_names(codec.get("configuration"))
    return found


def _check_order(sizes: Sequence[tuple[int, int]]) -> None:
    for level, (finer, coarser) in enumerate(itertools.pairwise(sizes), start=1):
        if coarser[0] > finer[0] or coarser[1] > finer[1]:
            raise NgffError(f"its level {level} is larger than the one before")


def _to_8_bits(dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """The 8-bit value of each 16-bit one, or None for pixels that have 8 bits already."""
    if dtype == np.uint8:
        return None
    low, high = ngff.value_range(attributes, np.iinfo(dtype).max)
    values = np.arange(np.iinfo(dtype).max + 1)
    return np.clip(np.round((values - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def _properties(multiscale: ngff.Multiscale, array: Any, counts: Mapping[str, int]) -> dict[str, str]:
    found = {f"omezarr.mpp-{axis}": f"{value!r}" for axis, value in multiscale.mpp.items()}
    return {
        **found,
        "omezarr.zarr-format": str(array.metadata.zarr_format),
        "omezarr.axes": multiscale.axes,
        "omezarr.channels": str(counts.get("c", 1)),
        "omezarr.dtype": str(array.dtype),
        "omezarr.chunks": " x ".join(map(str, array.chunks)),
    }
