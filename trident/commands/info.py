"""`trident info`: what is known about slides, and whether the pipeline could process them."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from trident import exit_codes
from trident.commands.options import OptionParser
from trident.commands.table import render
from trident.errors import SettingsError, TridentError
from trident.slides.metadata import MPP_KEYS, TIFF_RESOLUTION_KEY, positive_number
from trident.slides.registry import READER_TYPES

if TYPE_CHECKING:
    from trident.slides.facts import SlideFacts

_INDENT = "  "
_LABEL_WIDTH = 15
_MAX_VALUE_LENGTH = 60
"""A metadata value in the table is cut off after so many characters; `--json` has it whole."""


def run(arguments: list[str]) -> int:
    """Print what is known of each slide. Returns the exit code.

    A slide that does not open is one line on stderr, and the others are shown.

    Raises:
        SettingsError: an option has an unusable value.
    """
    parser = OptionParser(prog="trident info", description=__doc__, allow_abbrev=False)
    parser.add_argument("slides", nargs="+", metavar="SLIDE", help="a slide file")
    parser.add_argument("--json", action="store_true", help="a JSON list with one object a slide")
    parser.add_argument("--reader_type", metavar="{" + ",".join(READER_TYPES) + "}", help="the reader to use")
    parser.add_argument("--mpp", help="µm/px of level 0, instead of what the metadata says")
    parser.add_argument(
        "--custom_mpp_keys", nargs="+", action="extend", default=[], metavar="KEY", help="further keys that hold µm/px"
    )
    given = parser.parse_intermixed_args(arguments)
    mpp = None if given.mpp is None else _checked_mpp(given.mpp)
    if given.reader_type not in (None, *READER_TYPES):
        raise SettingsError(f"--reader_type {given.reader_type}: choose one of {', '.join(READER_TYPES)}")

    from trident.devices import restrict_visibility
    from trident.slides.facts import slide_facts

    restrict_visibility(-1)  # no pixel is computed on a GPU here, and cuCIM would open a context on each
    logging.getLogger("trident").setLevel(logging.ERROR)  # what a reader warns of stands among the notes
    entries: list[dict[str, Any]] = []
    failed = 0
    for index, path in enumerate(given.slides):
        try:
            facts = slide_facts(path, reader_type=given.reader_type, mpp=mpp, custom_mpp_keys=given.custom_mpp_keys)
        except TridentError as error:
            failed += 1
            entries.append({"path": path, "error": str(error)})
            sys.stderr.write(f"error: {printable(str(error))}\n")
            continue
        if given.json:
            entries.append(as_json(facts))
        else:
            sys.stdout.write(("\n" if index else "") + as_text(facts))
    if given.json:
        sys.stdout.write(json.dumps(entries, indent=2) + "\n")
    return exit_codes.FINISHED_WITH_FAILURES if failed else exit_codes.OK


def _checked_mpp(text: str) -> float:
    mpp = positive_number(text)
    if mpp is None:
        raise SettingsError(f"--mpp {text}: give a positive number, the µm/px of level 0 such as 0.25")
    return mpp


def as_json(facts: SlideFacts) -> dict[str, Any]:
    """The facts as a JSON object."""
    return {
        "path": str(facts.path),
        "name": facts.name,
        "format": facts.format,
        "size_bytes": facts.size_bytes,
        "reader": {"type": facts.reader_type, "reason": facts.reader_reason},
        "levels": [
            {
                "level": level,
                "width_px": one.width_px,
                "height_px": one.height_px,
                "downsample": one.downsample,
                "tile_width_px": one.tile_size and one.tile_size[0],
                "tile_height_px": one.tile_size and one.tile_size[1],
                "compression": one.compression,
            }
            for level, one in enumerate(facts.levels)
        ],
        "mpp": {"value": facts.mpp, "source": facts.mpp_source, "candidates": _candidates(facts)},
        "magnification": {
            "from_mpp": facts.magnification,
            "objective_power": facts.objective_power,
            "objective_key": facts.objective_key,
        },
        "associated_images": [
            {"name": name, "width_px": width_px, "height_px": height_px}
            for name, (width_px, height_px) in facts.associated_images.items()
        ],
        "notes": list(facts.notes),
        "processable": not facts.problems,
        "problems": list(facts.problems),
    }


def _candidates(facts: SlideFacts) -> list[dict[str, Any]]:
    return [
        {"key": one.key, "value": one.text, "mpp": one.mpp, "used": one.key == facts.mpp_source}
        for one in facts.mpp_candidates
    ]


def as_text(facts: SlideFacts) -> str:
    """The facts for people, some twenty lines."""
    size = "" if facts.size_bytes is None else f", {facts.size_bytes:,} bytes"
    magnification = "unknown" if facts.magnification is None else f"{facts.magnification}x by its µm/px"
    claimed = f"{facts.objective_power:g}x ({facts.objective_key})" if facts.objective_power else "none stated"
    images = ", ".join(f"{name} {width} x {height} px" for name, (width, height) in facts.associated_images.items())
    lines = [
        printable(str(facts.path)),
        _line("format", f"{facts.format}{size}"),
        _line("reader", f"{facts.reader_type} ({facts.reader_reason})"),
        _line("size", _size(facts)),
        _line("µm/px", _resolution(facts)),
        _line("magnification", f"{magnification}; objective power: {claimed}"),
        _line("other images", images or "none"),
        *(_line("note", note) for note in facts.notes),
        *(_line("problem", problem) for problem in facts.problems),
        _line("processable", "no" if facts.problems else "yes"),
    ]
    text = "".join(f"{line}\n" for line in lines)
    levels = [
        {
            "level": level,
            "width": one.width_px,
            "height": one.height_px,
            "downsample": f"{one.downsample:.6g}",
            "tile": one.tile_size and f"{one.tile_size[0]} x {one.tile_size[1]}",
            "compression": one.compression and printable(one.compression),
        }
        for level, one in enumerate(facts.levels)
    ]
    rows = [
        {
            "metadata key": printable(one["key"]),
            "value": printable(one["value"], _MAX_VALUE_LENGTH),
            "µm/px": one["mpp"],
            "used": one["used"],
        }
        for one in _candidates(facts)
    ]
    return text + _indented(render(levels, "table")) + _indented(render(rows, "table"))


def _size(facts: SlideFacts) -> str:
    first = facts.levels[0]
    pixels = f"{first.width_px} x {first.height_px} px"
    if facts.mpp is None:
        return pixels
    return f"{pixels}, {first.width_px * facts.mpp / 1000:.3g} x {first.height_px * facts.mpp / 1000:.3g} mm"


def _resolution(facts: SlideFacts) -> str:
    if facts.mpp is not None:
        return f"{facts.mpp:g} ({facts.mpp_source})"
    if facts.mpp_candidates:
        return "unknown"
    return f"unknown: none of {', '.join((*MPP_KEYS, TIFF_RESOLUTION_KEY))} is in the metadata"


def _line(label: str, text: str) -> str:
    return f"{_INDENT}{label:<{_LABEL_WIDTH}}{printable(text)}"


def _indented(table: str) -> str:
    return "".join(f"{_INDENT}{line}\n" for line in table.splitlines())


def printable(text: str, max_length: int | None = None) -> str:
    """Text of a file on one line: blanks joined, what could steer a terminal replaced, the end cut off."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return line if max_length is None or len(line) <= max_length else f"{line[: max_length - 1]}…"
