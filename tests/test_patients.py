"""The list of patients: what is read, and what is refused with which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trident.errors import DiscoveryError
from trident.patients import read_patients


def test_slides_by_patient_in_order(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("patient, wsi ,note\np2,b.svs,x\np1,sub/a.ome.tif,\n\np2,c,\n", encoding="utf-8-sig")
    assert read_patients(path) == {"p2": ("b", "c"), "p1": ("a",)}


def test_a_name_without_extension_keeps_its_dots(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("patient,wsi\np,TCGA-05-DX1.d4ff32cd\np,case 1.5\np,case 2.svs\n")
    assert read_patients(path) == {"p": ("TCGA-05-DX1.d4ff32cd", "case 1.5", "case 2")}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        (b"", "no column `patient`"),
        (b"patient,slide\np,a\n", "no column `wsi`"),
        (b"patient,wsi\n", "names no patient"),
        (b"patient,wsi\n,a.svs\n", "line 2: patient is empty"),
        (b"patient,wsi\np,\n", "line 2: wsi is empty"),
        (b"patient,wsi\np,a.svs\nq,a.tif\n", "line 3: slide a stands on line 2 already"),
        (b"patient,wsi\n../p,a.svs\n", "line 2: patient '../p' cannot name a file"),
        (b"patient,wsi\n.p,a.svs\n", "line 2: patient '.p' cannot name a file"),
        (b"\xff\xfe\x00p", "not a CSV file in UTF-8"),
    ],
)
def test_a_bad_list_is_one_clear_line(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "patients.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DiscoveryError) as caught:
        read_patients(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
