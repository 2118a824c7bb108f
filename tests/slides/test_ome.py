"""What is taken from OME-XML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from trident.slides.ome import OmeFacts, ome_facts


def _facts(path: Path, pixels: Any, **metadata: Any) -> OmeFacts:
    tifffile.imwrite(path, pixels, ome=True, metadata=metadata)
    with tifffile.TiffFile(path) as tiff:
        return ome_facts(tiff)


@pytest.mark.parametrize(
    ("unit", "size", "mpp"), [("µm", 0.25, 0.25), ("nm", 250.0, 0.25), ("mm", 0.0005, 0.5), ("pixel", 1.0, None)]
)
def test_physical_size(tmp_path: Path, unit: str, size: float, mpp: float | None) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    stated = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": 2 * size, "PhysicalSizeYUnit": unit}
    found = _facts(tmp_path / "a.ome.tif", pixels, axes="YXS", **stated).properties
    expected = {} if mpp is None else {"ome.PhysicalSizeX": mpp, "ome.PhysicalSizeY": 2 * mpp}
    assert {key: float(value) for key, value in found.items()} == pytest.approx(expected)


def test_several_channels(tmp_path: Path) -> None:
    assert _facts(tmp_path / "a.ome.tif", np.zeros((4, 32, 32), np.uint16), axes="CYX").more_channels == "C: 4"


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ('SizeC="3" SizeZ="1" SizeT="1"', ""),
        ("", ""),
        ('SizeC="3" SizeZ="1" SizeT="1000000000"', "T: 1000000000"),
        ('SizeC="3" SizeZ="7" SizeT="2"', "Z: 7, T: 2"),
        ('SizeC="6" SizeZ="1" SizeT="1"', "C: 6"),
        ('SizeC="3" SizeZ="x" SizeT="1"', "Z: x"),
        (f'SizeC="3" SizeZ="{"9" * 5000}" SizeT="1"', f"Z: {'9' * 20}"),
    ],
)
def test_claims_are_looked_at_before_anything_is_made_of_them(tmp_path: Path, sizes: str, says: str) -> None:
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" SizeX="32" SizeY="32" {sizes} Type="uint8" '
        'PhysicalSizeX="0.5"><Channel ID="C:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((32, 32, 3), np.uint8), photometric="rgb", description=xml, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        facts = ome_facts(tiff)
    assert facts.properties == {"ome.PhysicalSizeX": "0.5"}
    assert ", ".join(more for more in (facts.more_channels, *facts.more_planes) if more) == says


def test_xml_that_does_not_parse_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    pixels = np.zeros((32, 32, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", description="<?xml version='1.0'?><OME><</OME>", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        assert ome_facts(tiff) == OmeFacts()


def test_a_plain_tiff_has_no_such_properties(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert ome_facts(tiff) == OmeFacts()
