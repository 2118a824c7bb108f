"""One file, whole or not at all, cheap to write again, and harmless whatever slides are called."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trident import exit_codes
from trident.cli import main
from trident.errors import StoreError
from trident.viz.report import facts, pictures
from trident.viz.report.page import MARK, SCRIPTS, embedded
from trident.viz.report.write import REPORT_NAME, write_report

Job = Any
"""`JobMaker` of conftest.py."""

ASSETS = Path(pictures.__file__).parent / "assets"


class _Elements(html.parser.HTMLParser):
    """Start tags with their attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[-1] += data


def _parsed(page: Path) -> _Elements:
    elements = _Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    return elements


def _pictures(page: Path) -> list[Image.Image]:
    found = re.findall(r'<script type="text/plain" id="p-[0-9a-f]{20}">(.*)</script>', page.read_text(encoding="utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_pictures_are_those_of_the_job(job: Job) -> None:
    job.slide("a.svs")
    big = job.picture(job.layout.contours_image("a"), (10, 200, 30), (1000, 500))
    tissue, patches = _pictures(write_report(job.job_dir))
    assert (tissue.format, tissue.size) == ("WEBP", (800, 400))
    assert patches.size == (400, 300), "never enlarged"
    with Image.open(big) as original:
        wanted = original.convert("RGB").getpixel((500, 250))
    assert tissue.convert("RGB").getpixel((400, 200)) == pytest.approx(wanted, abs=4)


@pytest.mark.parametrize(
    ("n_pictures", "side"), [(0, 800), (500, 800), (501, 640), (2000, 320), (7200, 160), (90_000, 96)]
)
def test_pictures_shrink_with_the_cohort(n_pictures: int, side: int) -> None:
    assert pictures.side_px(n_pictures) == side


def test_more_pictures_than_fit_are_left_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trident.viz.report.collect.MAX_PICTURES", 3)
    for name in ("a", "b"):
        job.slide(f"{name}.svs")
    page = write_report(job.job_dir)
    data = job.data_of(page)
    assert len(_pictures(page)) == 3
    assert data["pictures_left_out"] == 1
    assert "id" not in data["slides"][1]["patch_pictures"][0]


def test_written_again_it_reads_only_what_changed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        job.slide(f"{name}.svs")
    first = job.data_of(write_report(job.job_dir))
    read: list[str] = []
    for module, function in ((facts, "_tissue_fact"), (facts, "_coords_fact"), (pictures, "_scaled")):
        _spy(monkeypatch, module, function, read)
    assert job.data_of(write_report(job.job_dir))["slides"] == first["slides"]
    assert read == []
    job.outlines("b")
    job.patches("b", 11)
    job.picture(job.layout.coords_image("b"), (1, 2, 3), (500, 100))
    second = job.data_of(write_report(job.job_dir))["slides"]
    assert sorted(read) == ["b.geojson", "b.jpg", "b_patches.h5"]
    assert (second[1]["tissue_mm2"], second[1]["patches"]) == (0.0, [11])
    assert len(_pictures(job.job_dir / REPORT_NAME)) == 4, "the old picture is gone"


def _spy(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, seen: list[str]) -> None:
    function: Callable[..., Any] = getattr(module, name)

    def spy(path: Path, *more: Any) -> Any:
        seen.append(path.name)
        return function(path, *more)

    monkeypatch.setattr(module, name, spy)


def test_a_problem_is_looked_at_again_though_its_file_is_the_same(job: Job, tmp_path: Path) -> None:
    """Such as the rights of a file, or the name of the folder above it."""
    job.slide("a.svs")
    job.layout.tissue("a").write_bytes(b"{")
    write_report(job.job_dir)
    moved = tmp_path / "moved"
    job.job_dir.rename(moved)
    write_report(moved)
    assert [line.split(":")[0] for line in job.data_of(moved / "report.html")["problems"]] == [
        str(moved / "contours_geojson" / "a.geojson")
    ]


@pytest.mark.parametrize("damage", ["cut off", "NaN among the facts", "facts of another kind"])
def test_a_damaged_report_is_replaced(job: Job, damage: str) -> None:
    job.slide("a.svs")
    page = write_report(job.job_dir)
    wanted = job.data_of(page)["slides"]
    text = page.read_text(encoding="utf-8")
    if damage == "cut off":
        text = text[: len(text) // 2]
    else:
        bad = '{"contours_geojson/a.geojson":{"stamp":"","fact":{"area_px2":NaN}}}' if "NaN" in damage else "[3]"
        text = re.sub(r'(id="facts">).*(</script>)', lambda found: found[1] + bad + found[2], text)
    page.write_text(text, encoding="utf-8")
    assert job.data_of(write_report(job.job_dir))["slides"] == wanted


def test_hostile_names_stay_text(job: Job) -> None:
    name = job.hostile.replace("/", "")  # a file name has no slash; the rest stands
    job.slide(f"{name}.svs")
    job.state("b.svs", {"segmentation": job.failed("bad </script><script>pwned=1</script> <!-- ")})
    job.manifest(status="error", error="</script><b>", args={"wsi_dir": "</script>"})
    elements = _parsed(write_report(job.job_dir))
    allowed = {"application/json", "text/plain", None}
    assert not [tag for tag, _ in elements.tags if tag in {"img", "b", "iframe", "object", "embed", "base", "form"}]
    assert {attributes.get("type") for tag, attributes in elements.tags if tag == "script"} <= allowed
    both = zip(elements.tags, elements.texts, strict=True)
    (script,) = [text for (tag, attributes), text in both if tag == "script" and "type" not in attributes]
    assert script.startswith('"use strict"')
    names = [slide["name"] for slide in job.data_of(job.job_dir / REPORT_NAME)["slides"]]
    assert names == ["b", name]


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028", "ü", "\udcff", '"&\\'])
def test_embedded_text_comes_back(text: str) -> None:
    line = embedded({"x": text})
    assert "<" not in line and line.isascii()
    assert json.loads(line) == {"x": text}


def test_policy_allows_this_script_and_style_and_nothing_from_outside(job: Job) -> None:
    job.slide("a.svs")
    elements = _parsed(write_report(job.job_dir))
    by_tag = list(zip(elements.tags, elements.texts, strict=True))
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and a.get("http-equiv"))
    script = next(text for (tag, a), text in by_tag if tag == "script" and "type" not in a)
    style = next(text for (tag, _), text in by_tag if tag == "style")
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in str(policy)
    assert str(policy).startswith("default-src 'none'; ")
    for _, attributes in elements.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert not attributes.get("src")
        assert (attributes.get("href") or "#").startswith(("#", "data:"))


def test_no_asset_parses_text_as_html_or_names_a_host() -> None:
    assert {path.name for path in ASSETS.iterdir()} == {"page.html", "page.css", *(f"{name}.js" for name in SCRIPTS)}
    for path in ASSETS.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            path
        )
        assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(", text), path


def test_output_elsewhere_has_no_links(job: Job, tmp_path: Path) -> None:
    job.slide("a.svs")
    page = write_report(job.layout, tmp_path / "deep" / "page.html")
    assert page == tmp_path / "deep" / "page.html"
    assert "link" not in job.data_of(page)["slides"][0]["tissue_picture"]
    assert not (job.job_dir / REPORT_NAME).exists()
    assert len(_pictures(page)) == 2


@pytest.mark.parametrize("name", ["a#b?c%20.svs", "ü ß.svs", os.fsdecode(b"not-utf8-\xff.svs")])
def test_links_lead_to_the_file(job: Job, name: str) -> None:
    from urllib.parse import unquote_to_bytes

    slide = job.slide(name)
    link = job.data()["slides"][0]["tissue_picture"]["link"]
    assert link.isascii() and not set("#? ") & set(link)
    assert unquote_to_bytes(link) == os.fsencode(f"contours/{slide}.jpg")


def test_a_job_without_slides(job: Job) -> None:
    job.manifest(status="running")
    data = job.data()
    assert data["slides"] == [] and data["grids"] == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such job directory"),
        (lambda path: path.write_text("x"), "is a file, not a job directory"),
        (lambda path: path.mkdir(), "holds no run and no output"),
        (lambda path: (path / "holiday" / "pictures").mkdir(parents=True), "holds no run and no output"),
    ],
)
def test_not_a_job_directory(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(StoreError, match=message) as caught:
        write_report(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (path / REPORT_NAME).exists()


def test_only_a_report_is_replaced(job: Job, tmp_path: Path) -> None:
    job.slide("a.svs")
    slide = tmp_path / "precious.svs"
    slide.write_bytes(b"gigapixels")
    with pytest.raises(StoreError, match="exists and is not a report"):
        write_report(job.job_dir, slide)
    assert slide.read_bytes() == b"gigapixels"
    with pytest.raises(StoreError, match="is a folder"):
        write_report(job.job_dir, tmp_path)
    empty = tmp_path / "empty.html"
    empty.touch()
    assert write_report(job.job_dir, empty).read_bytes().startswith(MARK.encode())


def test_command(job: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path, quiet_process: None) -> None:
    job.slide("a.svs")
    for arguments, code, out, err in (
        ([str(job.job_dir)], exit_codes.OK, f"{job.job_dir / REPORT_NAME}\n", ""),
        ([str(job.job_dir), "--output", str(tmp_path / "x.html")], exit_codes.OK, f"{tmp_path / 'x.html'}\n", ""),
        ([str(tmp_path / "none")], exit_codes.USAGE, "", "no such job directory"),
        ([], exit_codes.USAGE, "", "JOB_DIR"),
        ([str(job.job_dir), "--outptu", "x"], exit_codes.USAGE, "", "did you mean --output?"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["report", *arguments])
        shown = capsys.readouterr()
        assert (end.value.code, shown.out) == (code, out)
        assert err in shown.err and shown.err.count("\n") == (1 if err else 0)
