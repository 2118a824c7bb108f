"""The page itself: template, style and script put together around the data, and what a page before can lend."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

MARK = "<!doctype html><!-- trident report -->"
"""First bytes of every report: a file that does not begin so is not ours to replace."""

SCRIPTS = ("dom", "model", "review", "charts", "overview", "table", "detail", "main")
"""In this order; together they are one script."""

_PICTURE_LINE = '<script type="text/plain" id="p-{}">{}</script>'
_PICTURE = re.compile(rb'<script type="text/plain" id="p-([0-9a-f]{20})">([A-Za-z0-9+/=]*)</script>')
_FACTS_HEAD = b'<script type="application/json" id="facts">'


@dataclass
class Kept:
    """What an earlier page holds that need not be made again: facts by file, and pictures (base64) by id."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)


def render(title: str, data: Mapping[str, Any], facts: Mapping[str, Any], pictures: Mapping[str, str]) -> bytes:
    """The whole page as UTF-8.

    Args:
        title: of the browser's tab; plain text.
        data: for the page's script.
        facts: kept for the next page only.
        pictures: id -> base64 WebP. Each is an element of its own, so that a browser decodes only what is looked at.
    """
    style, script = _style(), _script()
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head, tail = _template()
    filled = head.substitute(
        mark=MARK, policy=policy, title=html.escape(printable(title)), style=style, data=embedded(data)
    )
    lines = [filled, _FACTS_HEAD.decode() + embedded(facts) + "</script>"]
    lines += [_PICTURE_LINE.format(key, value) for key, value in pictures.items()]
    lines.append(tail.substitute(script=script))
    return "\n".join(lines).encode("utf-8")


def embedded(value: object) -> str:
    """JSON that can stand inside a script element: ASCII, and without the character that could end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def printable(text: str) -> str:
    """`text` with the bytes that are not UTF-8 replaced, as in the name of a folder from another system."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_report(path: Path) -> bool:
    """Whether a file was written by `render`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK.encode()


def read_kept(path: Path) -> Kept:
    """What the page at `path` can lend; nothing where there is none or where it is damaged."""
    kept_pictures: dict[str, str] = {}
    facts: Mapping[str, Any] = {}
    try:
        for line in _lines(path):
            picture = _PICTURE.fullmatch(line)
            if picture:
                kept_pictures[picture[1].decode()] = picture[2].decode()
            elif line.startswith(_FACTS_HEAD):
                text = line.removeprefix(_FACTS_HEAD).removesuffix(b"</script>")
                found = json.loads(text, parse_constant=_no_constant)
                facts = found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return Kept()  # it only spares work; whatever is wrong with the file shows when it is replaced
    return Kept(facts, kept_pictures)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\n")


def _source(text: str) -> str:
    """The name of an inline script or style in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"


@lru_cache
def _template() -> tuple[Template, Template]:
    head, _, tail = _asset("page.html").partition("<!-- facts and pictures -->\n")
    return Template(head.rstrip("\n")), Template(tail)


@lru_cache
def _style() -> str:
    return _asset("page.css")


@lru_cache
def _script() -> str:
    return '"use strict";\n(() => {\n' + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "})();\n"


def _asset(name: str) -> str:
    return (files("trident.viz.report") / "assets" / name).read_text(encoding="utf-8")
