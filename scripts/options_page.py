"""Write docs/options.md, the list of all options, from `trident/settings.py`.

python scripts/options_page.py
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic.fields import FieldInfo

from trident.cli import NOT_IN_BATCH, NOT_IN_SINGLE
from trident.commands.options import GROUP_TITLES
from trident.settings import (
    CONFIG_SECTION,
    ENVIRONMENT_PREFIX,
    Settings,
    is_flag,
    is_list,
    option_choices,
    option_group,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
MOST_CHOICES = 9
"""Longer lists of names are a link to the page that explains them."""
SEE = {"patch_encoder": "encoders.md#patch-encoders", "slide_encoder": "encoders.md#slide-encoders"}

HEAD = f"""# All options

This page is made from `trident/settings.py` (`python scripts/options_page.py`).

An option can be given in four places; the first that has it wins:

| place | spelling |
|---|---|
| `trident batch`, `trident single`, `run_batch_of_slides.py`, `run_single_slide.py` | `--patch_size 256` |
| `luigi --module luigi_tasks`, instead | `--patch-size 256` (lists as one word: `--gpus "0 1"`, `--gpus=-1`) |
| environment | `{ENVIRONMENT_PREFIX}PATCH_SIZE=256` |
| section `[{CONFIG_SECTION}]` of `luigi.cfg` | `patch_size = 256` |

An unknown name is an error everywhere. On a command line a flag is its name alone (`--overwrite`), elsewhere `true` or
`false`. Options under "devices and memory", "task graph" and "what is said" are those of a host: they shape no output,
and hosts that share a job may differ in them. What shaped an output stands in its
[recipe](outputs.md#recipes-our-addition).
"""


def page() -> str:
    """The page as Markdown."""
    sections = [HEAD]
    for group, title in GROUP_TITLES.items():
        rows = [_row(name, field) for name, field in Settings.model_fields.items() if option_group(field) == group]
        head = f"## {title[:1].upper()}{title[1:]}\n\n| option | values | default | meaning |\n|---|---|---|---|\n"
        sections.append(head + "".join(rows))
    return "\n".join(sections)


def _row(name: str, field: FieldInfo) -> str:
    parts = str(field.description).replace("|", "\\|").split("`")
    # Outside of `code`, a `<` would begin a tag of HTML.
    meaning = "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))
    if name in NOT_IN_SINGLE and name not in NOT_IN_BATCH:
        meaning += " Not for `single`."
    elif name in NOT_IN_BATCH:
        meaning += " Not for `batch`."
    return f"| `--{name}` | {_values(name, field)} | {_default(field)} | {meaning} |\n"


def _values(name: str, field: FieldInfo) -> str:
    choices = option_choices(field)
    if choices is not None and len(choices) <= MOST_CHOICES:
        values = ", ".join(f"`{choice}`" for choice in choices)
    elif choices is not None:
        values = f"[a name]({SEE[name]})"
    elif is_flag(field):
        return "flag"
    else:
        values = _kind(field)
    return f"{values}; several" if is_list(field) else values


def _kind(field: FieldInfo) -> str:
    names = {int: "whole number", float: "number", Path: "path", str: "text"}
    members = [field.annotation, *get_args(field.annotation)]
    found = [names[member] for member in members if isinstance(member, type) and member in names]
    limits = _limits(field)
    if is_list(field):
        return "whole number" if "int" in str(field.annotation) else "text"
    return f"{found[0]}{limits}"


def _limits(field: FieldInfo) -> str:
    said = []
    for limit in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤")):
            if (value := getattr(limit, attribute, None)) is not None:
                said.append(f"{sign} {value:g}")
    return f" {', '.join(said)}" if said else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if is_flag(field) or field.default is None:
        return ""
    default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
