"""Synthetic slides: tiled pyramids that OpenSlide takes as Aperio's, written without a JPEG codec for tifffile."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

TILE_PX = 128


class SlideWriter(Protocol):
    """Writes a pyramid of `levels` (downsamples) of the synthetic scene to a file."""

    def __call__(
        self, file_name: str, downsamples: Sequence[float] = ..., codec: str = ..., mpp: str = ..., vendor: str = ...
    ) -> Path:
        """Path of the slide."""


def encoded_tiles(image: np.ndarray, format_: str, options: dict[str, Any]) -> Iterator[bytes]:
    height, width = image.shape[:2]
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            part = image[y : y + TILE_PX, x : x + TILE_PX]
            part = np.pad(part, ((0, TILE_PX - part.shape[0]), (0, TILE_PX - part.shape[1]), (0, 0)), mode="edge")
            buffer = io.BytesIO()
            Image.fromarray(part).save(buffer, format_, **options)
            yield buffer.getvalue()


def write_pyramid(path: Path, levels: Sequence[np.ndarray], codec: str, mpp: str, vendor: str) -> None:
    height, width = levels[0].shape[:2]
    description = "Aperio" if vendor == "aperio" else "Plain"
    description += f" Image Library v11.2.1 \r\n{width}x{height} ({TILE_PX}x{TILE_PX}) Q=80|AppMag = 40"
    description += f"|MPP = {mpp}" if mpp else ""
    format_, compression, photometric, options = {
        "jpeg": ("JPEG", 7, 6, {"quality": 80}),
        "jpeg2000": ("JPEG2000", 33005, 2, {"no_jp2": True, "irreversible": True}),
        "deflate": ("", 8, 2, {}),
    }[codec]
    shared: dict[str, Any] = {"photometric": "rgb", "description": description, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            shared["subfiletype"] = 1 if number and vendor != "aperio" else 0
            data: Any = encoded_tiles(level, format_, options) if codec != "deflate" else level
            tiff.write(data, shape=level.shape, dtype="uint8", tile=(TILE_PX, TILE_PX), compression="deflate", **shared)
            if number == 0 and vendor == "aperio":  # its second page is always a thumbnail
                tiff.write(np.ascontiguousarray(level[::8, ::8]), rowsperstrip=16, **shared)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            if page.is_tiled:
                page.tags["Compression"].overwrite(compression)
                page.tags["PhotometricInterpretation"].overwrite(photometric)


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A smooth random picture, 1000 x 830 px, no two places alike."""
    noise = np.random.default_rng(5).integers(0, 256, (42, 50, 3), dtype=np.uint8)
    return cv2.resize(noise, (1000, 830), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def write_slide(tmp_path: Path, scene: np.ndarray) -> SlideWriter:
    """Writes pyramids of `scene` into the test's own folder."""

    def write(
        file_name: str,
        downsamples: Sequence[float] = (1, 4, 8.03),
        codec: str = "jpeg",
        mpp: str = "0.25",
        vendor: str = "aperio",
    ) -> Path:
        height, width = scene.shape[:2]
        sizes = [(int(width / downsample), int(height / downsample)) for downsample in downsamples]
        levels = [scene if size == (width, height) else cv2.resize(scene, size, None, 0, 0, 3) for size in sizes]
        path = tmp_path / file_name
        write_pyramid(path, levels, codec, mpp, vendor)
        return path

    return write


def half_sized(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares; rows and columns that do not fill one are left out, as most writers do."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return np.asarray(cv2.resize(image[: height * factor, : width * factor], (width, height), None, 0, 0, 3))


@pytest.fixture(scope="session")
def scene_levels(scene: np.ndarray) -> dict[int, np.ndarray]:
    """The scene at downsamples 1, 2 and 4."""
    return {1: scene, 2: half_sized(scene, 2), 4: half_sized(scene, 4)}


@pytest.fixture(scope="session")
def write_omezarr() -> Callable[..., Path]:
    """Function (path, levels by downsample, ...): writes them as OME-Zarr and returns the path.

    `axes` is the order of the arrays' axes, `others` the length of t and z (the image is in the last plane of z, noise
    in the others), `inside` a group for the image.
    """
    zarr = pytest.importorskip("zarr", minversion="3")

    def write(
        path: Path,
        levels: dict[int, np.ndarray],
        *,
        version: str = "0.4",
        axes: str = "tczyx",
        others: dict[str, int] | None = None,
        inside: str = "",
        mpp: float | None = 0.25,
        unit: str = "micrometer",
        omero: dict[str, Any] | None = None,
        sharded: bool = False,
    ) -> Path:
        root = zarr.open_group(path, mode="a", zarr_format=3 if version == "0.5" else 2)
        group = root.require_group(inside) if inside else root
        lengths = {"t": 1, "z": 1, **(others or {})}
        datasets = []
        for number, (downsample, image) in enumerate(levels.items()):
            pixels = image if image.ndim == 3 else image[..., np.newaxis]
            known = {"c": pixels.shape[2], "y": pixels.shape[0], "x": pixels.shape[1], **lengths}
            shape = tuple(known[axis] for axis in axes)
            whole = np.random.default_rng(number).integers(0, 99, shape).astype(pixels.dtype)
            planes = np.moveaxis(whole, [axes.index(axis) for axis in "yx"], [0, 1])  # a view of `whole`
            rest = [axis for axis in axes if axis not in "yx"]
            at = tuple({"t": 0, "z": lengths["z"] - 1}.get(axis, slice(None)) for axis in rest)
            planes[(slice(None), slice(None), *at)] = pixels if "c" in axes else pixels[..., 0]
            chunks = tuple(TILE_PX if axis in "yx" else length for axis, length in zip(axes, shape, strict=True))
            shards = tuple(4 * side if side == TILE_PX else side for side in chunks) if sharded else None
            array = group.create_array(str(number), shape=shape, dtype=whole.dtype, chunks=chunks, shards=shards)
            array[:] = whole
            scale = [mpp * downsample if mpp and axis in "yx" else 1.0 for axis in axes]
            transformations = [{"type": "scale", "scale": scale}]
            datasets.append({"path": str(number), "coordinateTransformations": transformations})
        kinds = {"t": "time", "c": "channel"}
        described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
        if mpp:
            for axis in described:
                axis.update({"unit": unit} if axis["type"] == "space" else {})
        found: dict[str, Any] = {"multiscales": [{"version": version, "axes": described, "datasets": datasets}]}
        if omero is not None:
            found["omero"] = omero
        group.attrs.update({"ome": {"version": version, **found}} if version == "0.5" else found)
        return path

    return write


CZI_ELSEWHERE = 10_000_000
"""Tiles of the level with downsample d are first written from x = d times this on."""


@pytest.fixture(scope="session")
def write_czi() -> Callable[..., Path]:
    """Function (path, levels by downsample, ...): writes them as CZI and returns the path.

    The library writes level 0 only. Coarser tiles are written out of the way, and then their places in the file's
    directory are changed to those of pyramid subblocks.
    """
    czi = pytest.importorskip("pylibCZIrw.czi")

    def write(
        path: Path,
        levels: dict[int, np.ndarray],
        *,
        origin: tuple[int, int] = (-135, -70),
        mpp: float = 0.25,
        others: Sequence[tuple[np.ndarray, tuple[int, int], int, dict[str, int]]] = (),
        compression: str | None = None,
    ) -> Path:
        with czi.create_czi(str(path), compression_options=compression) as file:
            for downsample, image in levels.items():
                place = origin if downsample == 1 else (downsample * CZI_ELSEWHERE, 0)
                tiles = np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image[..., np.newaxis]
                for y in range(0, image.shape[0], 2 * TILE_PX):
                    for x in range(0, image.shape[1], 2 * TILE_PX):
                        part = tiles[y : y + 2 * TILE_PX, x : x + 2 * TILE_PX]
                        file.write(part, location=(place[0] + x, place[1] + y))
            for image, place, scene_number, plane in others:  # (image, location, scene, plane)
                tiles = np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image[..., np.newaxis]
                file.write(tiles, location=place, scene=scene_number, plane=plane)
            file.write_metadata("test", scale_x=mpp * 1e-6, scale_y=mpp * 1e-6)
        move_to_pyramid(path, origin)
        return path

    return write


def move_to_pyramid(path: Path, origin: tuple[int, int]) -> None:
    data, at = bytearray(path.read_bytes()), 0
    while (at := data.find(b"DV", at)) >= 0:
        (count,) = struct.unpack_from("<i", data, at + 28)
        entries = {}
        if 2 <= count <= 10:
            starts = range(at + 32, at + 32 + 20 * count, 20)
            entries = {bytes(data[start : start + 4]).rstrip(b"\0"): start + 4 for start in starts}
        if {b"X", b"Y"} <= entries.keys():
            (downsample, _) = divmod(struct.unpack_from("<i", data, entries[b"X"])[0], CZI_ELSEWHERE)
            if downsample > 0:
                for axis, first in zip((b"X", b"Y"), origin, strict=True):
                    start, size = struct.unpack_from("<ii", data, entries[axis])
                    place = first + start % CZI_ELSEWHERE * downsample
                    struct.pack_into("<ii", data, entries[axis], place, size * downsample)
                data[at + 22] = 2
        at += 2
    path.write_bytes(data)


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Function (folder, levels by downsample, ...): writes a DICOM series, one file a level, and returns the folder."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage

    def write(
        folder: Path, levels: dict[int, np.ndarray], *, series: str = "1.2.3.4", name: str = "level", mpp: float = 0.25
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (downsample, image) in enumerate(levels.items()):
            height, width = image.shape[:2]
            below, right = -height % TILE_PX, -width % TILE_PX
            whole = np.pad(image, ((0, below), (0, right), (0, 0)))
            frames = [
                whole[y : y + TILE_PX, x : x + TILE_PX].tobytes()
                for y in range(0, height, TILE_PX)
                for x in range(0, width, TILE_PX)
            ]
            file = Dataset()
            file.file_meta = FileMetaDataset()
            file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
            file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
            file.SeriesInstanceUID, file.StudyInstanceUID, file.Modality = series, "1.2.3", "SM"
            file.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"]
            file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
            file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
            file.Rows, file.Columns, file.NumberOfFrames = TILE_PX, TILE_PX, len(frames)
            file.TotalPixelMatrixColumns, file.TotalPixelMatrixRows = width, height
            file.DimensionOrganizationType = "TILED_FULL"
            measures, groups, optical = Dataset(), Dataset(), Dataset()
            measures.PixelSpacing = [f"{mpp * downsample / 1000:.8f}"] * 2
            groups.PixelMeasuresSequence, optical.OpticalPathIdentifier = [measures], "0"
            file.SharedFunctionalGroupsSequence, file.OpticalPathSequence = [groups], [optical]
            file.PixelData = b"".join(frames)
            file.save_as(folder / f"{name}-{number}.dcm", enforce_file_format=True)
        return folder

    return write


class FakeSdpcDecoder:
    """Stands in for opensdpc's decoder, which nothing can write files for: the levels lie in the file as arrays."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(2)
            self.levels = [array[..., ::-1] for _, array in sorted(np.load(io.BytesIO(file.read())).items())]
        self.level_sizes = [(image.shape[1], image.shape[0]) for image in self.levels]
        self.scale, self.mpp, self.rate = 0.5, 0.25, 40

    def read_bgr(self, level: int, box: Any) -> np.ndarray | None:
        height, width = self.levels[level].shape[:2]
        assert box.width > 0
        assert box.height > 0
        assert 0 <= box.left <= box.left + box.width <= width
        assert 0 <= box.top <= box.top + box.height <= height
        part = self.levels[level][box.top : box.top + box.height, box.left : box.left + box.width]
        return None if box.width == 13 else part


@pytest.fixture
def write_sdpc(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, dict[int, np.ndarray]], Path]:
    """Function (path, levels by downsample): writes a file that the stand-in of the decoder reads."""
    monkeypatch.setattr("trident.slides.sdpc.open_decoder", FakeSdpcDecoder)

    def write(path: Path, levels: dict[int, np.ndarray]) -> Path:
        buffer = io.BytesIO()
        np.savez(buffer, **{f"level_{number}": image for number, image in enumerate(levels.values())})
        path.write_bytes(b"SQ" + buffer.getvalue())
        return path

    return write
