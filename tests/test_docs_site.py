"""The documentation: its pages build, load nothing from elsewhere, and say what the program says."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from trident.cli import commands
from trident.commands.options import parser_of
from trident.convert.options import ConvertOptions
from trident.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/*.md")])
OF_LUIGI = {"module", "local_scheduler", "scheduler_url", "help_all", "workers"}
OF_TASKS = {"slide", "patients", "pooling", "then_process"}


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error."""
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed (extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Loaded(HTMLParser):
    """Addresses that a browser loads by itself when it shows a page; links that one follows are none."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.classes |= set(given.get("class", "").split())
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(given.get("href", ""))
        self.addresses += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]


def test_every_page_is_built(site: Path) -> None:
    for page in ROOT.glob("docs/*.md"):
        assert (site / f"{page.stem}.html").is_file(), page.name
    for made in ("benchmarks.html", "contributing.html", "pictures/overview.jpg"):
        assert (site / made).is_file(), made


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert len(loaded.addresses) > 3
        assert [address for address in loaded.addresses if "//" in address] == [], page.name
        assert "mermaid" not in loaded.classes, "the theme would fetch a library to draw it"
    for sheet in site.rglob("*.css"):
        found = re.findall(r"url\(\s*['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", sheet.read_text(encoding="utf-8"))
        assert [url or sheet for url, sheet in found if "//" in (url or sheet) and not url.startswith("data:")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    left = re.findall(r"@[A-Z_]+@|^[A-Z]{3,}$|\bTBD\b|\bX\.X+\b", page.read_text(encoding="utf-8"), re.M)
    assert left == []


@pytest.mark.parametrize(
    ("folder", "link", "expected"),
    [
        ("docs", "[b](../benchmarks/README.md#data-path)", "[b](benchmarks.md#data-path)"),
        ("docs", "[c](../CONTRIBUTING.md)", "[c](contributing.md)"),
        ("docs", "[o](outputs.md#locks)", "[o](outputs.md#locks)"),
        ("docs", "![p](pictures/a.jpg)", "![p](pictures/a.jpg)"),
        ("docs", "[the script](../tutorials/train_abmil.py)", "the script"),
        ("docs", "[t](https://example.org/a)", "[t](https://example.org/a)"),
        ("docs", "[here](#there)", "[here](#there)"),
        ("benchmarks", "[a](../docs/architecture.md)", "[a](architecture.md)"),
        ("", "[a](docs/architecture.md)", "[a](architecture.md)"),
    ],
)
def test_links_that_leave_the_pages(folder: str, link: str, expected: str) -> None:
    assert _script("mkdocs_hooks").rewrite_links(f"see {link}.", folder) == f"see {expected}."


def test_the_page_of_options_is_that_of_the_settings() -> None:
    made = _script("options_page").page()
    for name in Settings.model_fields:
        assert made.count(f"\n| `--{name}` |") == 1
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == made, "run python scripts/options_page.py"


@lru_cache
def _messages() -> frozenset[str]:
    """All texts in the sources, with `…` for what is filled in."""
    found = set()
    for path in [*ROOT.glob("trident/**/*.py"), *ROOT.glob("luigi_tasks/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.M)


def test_the_questions_quote_messages() -> None:
    assert len(QUOTED) > 20


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_among_the_questions_is_one_of_the_program(message: str) -> None:
    fixed = [re.escape(part) for part in message.split("…") if part.strip(" :()")]
    pattern = re.compile(".*".join(fixed), re.DOTALL)
    assert any(pattern.search(text) for text in _messages())


def _command_lines() -> Iterator[tuple[str, str]]:
    """Page and command of every line in a code block that begins with one of our programs."""
    for page in PAGES:
        for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"^(?:\w+=\S+ |\.venv/bin/)+", "", line.strip()).partition("  #")[0]
                if re.match(r"(trident|luigi --module|python run_\w+\.py|make) ?", command):
                    yield page.name, command


COMMANDS = sorted(set(_command_lines()))


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 30
    assert {page for page, _ in COMMANDS} >= {"README.md", "quickstart.md", "running.md", "convert.md"}


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_a_command_of_the_documentation_is_accepted(page: str, line: str, clean_settings: Path) -> None:
    if re.search(r"\[|\bOPTIONS\b", line):
        line = line.partition(" [")[0]
    words = [word for word in shlex.split(line.partition(" > ")[0].partition(" | ")[0]) if word not in ("…", "...")]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        runs = re.findall(r"^RUN_([\w-]+) ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert [word for word in words[1:] if "=" not in word and word not in {*targets, *runs}] == []
    elif words[0] == "luigi":
        names = {
            word.removeprefix("--").partition("=")[0].replace("-", "_")
            for word in words
            if re.match(r"--[\w-]+(=|$)", word)
        }
        known = Settings.model_fields.keys() | ConvertOptions.model_fields.keys() | OF_LUIGI | OF_TASKS
        assert names <= known
    elif len(words) > 1 and not (words[0] == "trident" and words[1].isupper()):
        if words[0] == "python":
            words = [
                "trident",
                {"run_batch_of_slides.py": "batch", "run_single_slide.py": "single"}[words[1]],
                *words[2:],
            ]
        own = words[2:] if words[2:3] != ["--"] else words[3:]
        own = own[: own.index("--")] if "--" in own else own
        parser = parser_of(commands()[words[1]][1])
        # What stands for further options ("…") may hold required ones.
        for action in parser._actions:
            action.required = False
        parser.parse_args(own)
