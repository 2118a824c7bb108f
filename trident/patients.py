"""Which slides belong to which patient: the CSV of `trident pool`."""

from __future__ import annotations

import csv
from pathlib import Path

from trident.errors import DiscoveryError
from trident.slides.registry import SLIDE_EXTENSIONS, slide_extension, slide_name

_UNSAFE = ("/", "\\", "\0")


def read_patients(csv_path: Path) -> dict[str, tuple[str, ...]]:
    """Slide names by patient, both in the order of the file.

    Args:
        csv_path: UTF-8, comma-separated, with a header; columns `patient` and `wsi`, others are ignored. `wsi` is a
            slide's file name or path, with or without its extension.

    Raises:
        DiscoveryError: unreadable or empty, a column or a value is missing, a slide stands twice, or a patient's name
            cannot name a file; with the line number.
    """
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            for wanted in ("patient", "wsi"):
                if wanted not in columns:
                    found = ", ".join(columns) or "none"
                    raise DiscoveryError(
                        f"{csv_path}: no column `{wanted}` (columns: {found}); the list needs `patient,wsi`"
                    )
            reader.fieldnames = columns
            rows = [(reader.line_num, _text(row["patient"]), _text(row["wsi"])) for row in reader]
    except OSError as error:
        raise DiscoveryError(f"{csv_path}: the list of patients cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DiscoveryError(f"{csv_path}: not a CSV file in UTF-8 ({error})") from error
    return _grouped(csv_path, rows)


def _grouped(csv_path: Path, rows: list[tuple[int, str, str]]) -> dict[str, tuple[str, ...]]:
    patients: dict[str, tuple[str, ...]] = {}
    first_line: dict[str, int] = {}
    for line, patient, wsi in rows:
        if not patient and not wsi:
            continue
        where = f"{csv_path}, line {line}"
        if not patient or not wsi:
            raise DiscoveryError(f"{where}: {'patient' if not patient else 'wsi'} is empty; fill it in")
        if patient.startswith(".") or any(sign in patient for sign in _UNSAFE):
            raise DiscoveryError(
                f"{where}: patient {patient!r} cannot name a file; leave out slashes and a leading dot"
            )
        known = slide_extension(wsi).lower() in SLIDE_EXTENSIONS  # a name without extension may have dots of its own
        slide = slide_name(wsi) if known else Path(wsi).name
        if slide in first_line:
            raise DiscoveryError(f"{where}: slide {slide} stands on line {first_line[slide]} already")
        first_line[slide] = line
        patients[patient] = (*patients.get(patient, ()), slide)
    if not patients:
        raise DiscoveryError(f"{csv_path}: the list names no patient")
    return patients


def _text(value: str | None) -> str:
    return (value or "").strip()
