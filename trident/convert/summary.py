"""`convert_summary.csv` and `converted.csv`: what a run of the conversion made, for people and for the next run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from trident.convert.run import Outcome
from trident.convert.stage import ConvertLayout
from trident.errors import StoreError
from trident.store.atomic import write_text

FACTS = ("mpp", "mpp_source", "width_px", "height_px", "levels", "bigtiff", "reader")
COLUMNS = ("wsi", "output", "status", *FACTS, "notes", "message")


def write_tables(layout: ConvertLayout, outcomes: Sequence[Outcome]) -> None:
    """Write both tables; what is known of a TIFF is read from its own recipe.

    Raises:
        StoreError: a table cannot be written.
    """
    rows = [_row(outcome) for outcome in outcomes]
    write_text(layout.summary_table, _csv(COLUMNS, [[row[column] for column in COLUMNS] for row in rows]))
    # One that failed here may have been made by another run since.
    good = [[one.stage.output.name] for one in outcomes if one.status != "error" or one.stage.status().done]
    write_text(layout.converted_list, _csv(("wsi",), good))


def _row(outcome: Outcome) -> dict[str, object]:
    stage = outcome.stage
    facts = _facts(outcome)
    notes = facts.get("notes")
    return {
        "wsi": stage.source.rel_path,
        "output": stage.output.name,
        "status": outcome.status,
        **{name: facts.get(name, "") for name in FACTS},
        "notes": "; ".join(map(str, notes)) if isinstance(notes, list) else "",
        "message": " ".join(outcome.message.split()),
    }


def _facts(outcome: Outcome) -> dict[str, object]:
    """What the TIFF says about itself; nothing where it failed, or where another program made it."""
    if outcome.status == "error":
        return {}
    try:
        recipe = outcome.stage.read_recipe()
    except StoreError:  # removed or damaged since: the message still says what was made
        return {}
    return {} if recipe is None else dict(recipe.facts)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
