"""The page in a real browser: load, sort, filter, open, decide, save; by mouse and by keyboard."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trident.slides.slide_list import listed_slides
from trident.viz.report.write import write_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

Job = Any
"""`JobMaker` of conftest.py."""

PATCHES = {"s1": 10, "s2": 12, "s10": 11, "big": 400, "none": 0}
LONG_ERROR = "it does not decode: " + "0123456789 " * 60 + "fetch it again"


@pytest.fixture(scope="module")
def cohort(make_job: Callable[[str], Job]) -> Job:
    """Five finished slides, a hostile name, a failed one, one that was interrupted, one that was not begun."""
    job = make_job("cohort")
    for at, (name, count) in enumerate(PATCHES.items()):
        job.slide(f"batch/{name}.svs", patches=count, seconds=1.0 + at / 10)
    hostile = job.hostile.replace("/", "")
    job.slide(f"{hostile}.svs", patches=13)
    timings = {"total": 9.0, "wait": 6.0, "read": 8.0, "encode": 2.25}
    job.state(
        "batch/s2.svs", {"segmentation": 1.0, "coords": 0.5, "patch_features:enc": job.done(9.0, timings=timings)}
    )
    path = job.wsi_dir / "batch" / "failed.svs"
    job.state("batch/failed.svs", {"segmentation": job.failed("once before", f"{path}: {LONG_ERROR}")}, mpp=None)
    job.state("batch/cut.svs", {"segmentation": {"status": "running", "attempts": [], "outputs": {}}})
    names = [*(f"batch/{name}.svs" for name in (*PATCHES, "failed", "cut", "later")), f"{hostile}.svs"]
    job.job_file(*names, wsi_dir=str(job.wsi_dir))
    for name in names:
        (job.wsi_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (job.wsi_dir / name).touch()
    job.manifest(status="error", error="1 of 9 slides failed <b>")
    write_report(job.job_dir)
    return job


@pytest.fixture
def page(browser: Chrome, cohort: Job) -> Chrome:
    """The cohort's page, newly opened, without any decision."""
    return _opened(browser, cohort.job_dir / "report.html")


def _opened(browser: Chrome, path: Path) -> Chrome:
    browser.get(path.as_uri())
    if browser.execute_script("const kept = localStorage.length; localStorage.clear(); return kept"):
        browser.refresh()
    browser.get_log("browser")
    return browser


def _one(page: Chrome, selector: str) -> WebElement:
    return page.find_element("css selector", selector)


def _names(page: Chrome) -> list[str]:
    """Slides in the table, from the top."""
    found: list[str] = page.execute_script(
        "return [...document.querySelectorAll('#body .name')].map((n) => n.textContent)"
    )
    return found


def _press(page: Chrome, *keys: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        ActionChains(page).send_keys(getattr(Keys, key, key)).perform()


def _focused(page: Chrome) -> Any:
    return page.execute_script("const e = document.activeElement; return e.id || e.dataset.slide || e.tagName")


def _wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen within 300 s"
        time.sleep(0.02)
    return found


def test_loads_alone_and_without_a_complaint(page: Chrome, cohort: Job) -> None:
    for log in ("performance", "browser"):
        page.get_log(log)
    page.refresh()
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(("file:", "data:")) for url in urls)
    assert page.get_log("browser") == []
    assert _names(page) == ["big", "cut", cohort.hostile.replace("/", ""), "failed", "later", "none", "s1", "s2", "s10"]
    assert page.execute_script("return [window.pwned, document.querySelectorAll('img[src=x]').length]") == [None, 0]
    assert "1 of 9 slides failed <b>" in _one(page, "#banners").text
    tiles = dict(line.splitlines() for line in (tile.text for tile in page.find_elements("css selector", "#tiles li")))
    shown = {name: tiles[name] for name in ("Slides", "Done", "Failed", "Unfinished", "Patches")}
    assert shown == {"Slides": "9", "Done": "6", "Failed": "1", "Unfinished": "2", "Patches": "446"}


def test_thumbnails_are_real_pictures(page: Chrome) -> None:
    script = "return [...document.querySelectorAll('#body img')].map((i) => i.decode().then(() => i.naturalWidth))"
    widths = page.execute_async_script(script.replace("return ", "Promise.all(") + ").then(arguments[0])")
    assert widths == [400] * 12


def test_policy_stops_requests(page: Chrome) -> None:
    script = "fetch('https://example.invalid/').then(() => arguments[0]('sent'), () => arguments[0]('stopped'))"
    assert page.execute_async_script(script) == "stopped"
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


def test_sort(page: Chrome) -> None:
    _one(page, "[data-column=patches]").click()
    up = _names(page)
    assert up[:3] == ["none", "s1", "s10"]
    assert set(up[-3:]) == {"cut", "failed", "later"}, "unknown values come last"
    _one(page, "[data-column=patches]").click()
    down = _names(page)
    assert down[:2] == ["big", next(name for name in up if name.startswith("evil"))]
    assert set(down[-3:]) == {"cut", "failed", "later"}
    assert [th.get_attribute("aria-sort") for th in page.find_elements("css selector", "th[aria-sort]")] == [
        "descending"
    ]
    _one(page, "[data-column=bottleneck]").click()
    assert _names(page)[-4:] == ["s2", "failed", "cut", "later"], (
        "`enc`, then `enc, decode`, then `Tissue`, then unknown"
    )


@pytest.mark.parametrize(
    ("act", "names"),
    [
        ("type:S1", ["s1", "s10"]),
        ("type:batch s10", ["s10"]),
        ("type:fetch it again", ["failed"]),
        ("type:<b>", []),
        ("filter-status:error", ["failed"]),
        ("filter-status:interrupted", ["cut"]),
        ("filter-stage:2:open", ["cut", "failed", "later"]),
        ("filter-stage:0:error", ["failed"]),
        ("filter-review:accept", []),
        ("click:#outliers", ["big", "none", "s2"]),
        ("click:[data-metric=patches] .link", ["big", "none"]),
        ("click:[data-metric=patches] .bars button:last-child", ["big"]),
    ],
)
def test_filter(page: Chrome, act: str, names: list[str]) -> None:
    kind, _, value = act.partition(":")
    before = _names(page)
    if kind == "type":
        _one(page, "#search").send_keys(value)
    elif kind == "click":
        _one(page, value).click()
    else:
        _one(page, f"#{kind} option[value='{value}']").click()
    _wait_for(lambda: _names(page) == names)
    assert _one(page, "#shown").text == f"{len(names)} of 9 slides"
    assert _one(page, "#nothing").is_displayed() is (not names)
    _one(page, "#clear").click()
    assert _names(page) == before


def test_a_slide_in_full(page: Chrome) -> None:
    _one(page, "tr[data-slide='batch/failed.svs']").click()
    assert _one(page, "#detail-name").text == "failed"
    assert LONG_ERROR in _one(page, ".failure pre").text
    assert "once before" in _one(page, ".failure.earlier").text
    _one(page, "#close").click()
    _one(page, "tr[data-slide='batch/s2.svs']").click()
    facts = _one(page, "#detail-facts").text
    assert "0.24 mm² in 1 piece, 1 hole" in facts
    assert "enc, decode" in facts, "the bottleneck, and the part of it"
    assert "67 % decode, 25 % encode\ntotal 9 s, wait 6 s, read 8 s, encode 2.3 s" in _one(page, "#detail-stages").text
    assert len(page.find_elements("css selector", "#detail-pictures img")) == 2
    links = [a.get_attribute("href") for a in page.find_elements("css selector", "#detail-pictures a")]
    assert all(Path(link.removeprefix("file://")).is_file() for link in links) and len(links) == 2


def test_by_keyboard_alone(page: Chrome) -> None:
    _one(page, "#search").click()
    stops = []
    while (where := _focused(page)) != "batch/big.svs":
        stops.append(where)
        assert len(stops) < 25, f"the table is not reached by Tab: {stops}"
        _press(page, "TAB")
    assert stops[:4] == ["search", "filter-status", "filter-review", "filter-stage"]
    _press(page, "ARROW_DOWN", "ARROW_DOWN", "END")
    assert _focused(page) == "batch/s10.svs"
    _press(page, "HOME", "f", "ARROW_DOWN", "ENTER")
    assert _one(page, "#detail").is_displayed() and _one(page, "#detail-name").text == "cut"
    _press(page, "ARROW_RIGHT", "ARROW_LEFT", "a")
    assert _one(page, "#accept").get_attribute("aria-pressed") == "true"
    inside = "const e = document.activeElement; return e === document.body || e.closest('#detail') !== null"
    within = set()
    for _ in range(15):
        _press(page, "TAB")
        within.add(page.execute_script(inside))
    assert within == {True}, "Tab stays in the dialog"
    _press(page, "ESCAPE")
    assert not _one(page, "#detail").is_displayed()
    assert _focused(page) == "batch/cut.svs", "the focus comes back to the slide's row"
    assert _one(page, "#review-counts").text == "1 accepted, 1 flagged, 7 undecided"
    _press(page, "u")
    assert _one(page, "#review-counts").text == "0 accepted, 1 flagged, 8 undecided"


def test_bars_by_keyboard(page: Chrome) -> None:
    page.execute_script("document.querySelector('[data-metric=patches] [tabindex=\"0\"]').focus()")
    _press(page, "END", "ENTER")
    assert _names(page) == ["big"]
    assert page.execute_script("return document.activeElement.getAttribute('aria-pressed')") == "true"
    _press(page, "ENTER")
    assert len(_names(page)) == 9


def test_focus_is_visible(page: Chrome) -> None:
    _one(page, "#search").click()
    for _ in range(12):
        _press(page, "TAB")
        width, style = page.execute_script(
            "const s = getComputedStyle(document.activeElement); return [parseFloat(s.outlineWidth), s.outlineStyle]"
        )
        assert width >= 2 and style == "solid", _focused(page)


def test_review_is_kept_and_saved_for_a_run(page: Chrome, cohort: Job, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    _one(page, "#start-review").click()
    assert _one(page, "#detail-name").text == "big"
    _press(page, "a")  # big; and so on to the next undecided slide
    note = 'pen, "blurred"\nask again'
    _one(page, "#note").send_keys(note)
    _one(page, "#flag").click()  # cut
    _press(page, "a")  # the hostile name
    assert _one(page, "#detail-name").text == "failed"
    _press(page, "ESCAPE")
    page.refresh()
    assert _one(page, "#review-counts").text == "2 accepted, 1 flagged, 6 undecided"
    saved = {}
    for button, suffix in (("save-accepted", "accepted"), ("save-flagged", "flagged"), ("save-all", "review")):
        _one(page, f"#{button}").click()
        path = tmp_path / f"job-{suffix}.csv"
        _wait_for(lambda path=path: path.exists() and path.stat().st_size > 0)
        saved[suffix] = path
    accepted = [slide.rel_path for slide in listed_slides(saved["accepted"], cohort.wsi_dir, (".svs",))]
    assert accepted == ["batch/big.svs", f"{cohort.hostile.replace('/', '')}.svs"]
    assert [slide.rel_path for slide in listed_slides(saved["flagged"], cohort.wsi_dir, None)] == ["batch/cut.svs"]
    assert len(listed_slides(saved["review"], cohort.wsi_dir, None)) == 9
    with saved["review"].open(newline="", encoding="utf-8") as file:
        rows = {row["wsi"]: (row["qc"], row["note"]) for row in csv.DictReader(file)}
    assert rows["batch/cut.svs"] == ("flag", note)
    assert rows["batch/s1.svs"] == ("", "")

    page.execute_script("localStorage.clear()")
    page.refresh()
    assert _one(page, "#review-counts").text == "0 accepted, 0 flagged, 9 undecided"
    _one(page, "#load-file").send_keys(str(saved["review"]))
    _wait_for(lambda: "9 decisions loaded" in _one(page, "#review-counts").text)
    _one(page, "#filter-review option[value=flag]").click()
    assert _names(page) == ["cut"]
    assert "blurred" in _one(page, "#body .sub").text


def test_a_saved_list_keeps_the_resolution_that_slides_were_given(
    browser: Chrome, make_job: Callable[[str], Job], tmp_path: Path
) -> None:
    job, names = make_job("given"), ["s1.svs", "s2.svs"]
    path = job.job_file(*names)
    content = json.loads(path.read_text())
    content["slides"][0]["mpp"] = 0.25
    path.write_text(json.dumps(content))
    job.wsi_dir.mkdir(parents=True, exist_ok=True)
    for name in names:
        job.slide(name)
        (job.wsi_dir / name).touch()
    page = _opened(browser, write_report(job.job_dir))
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    _one(page, "#save-all").click()
    saved = tmp_path / f"{job.job_dir.name}-review.csv"
    _wait_for(lambda: saved.exists() and saved.stat().st_size > 0)
    given = {slide.rel_path: slide.mpp for slide in listed_slides(saved, job.wsi_dir, None)}
    assert [given[name] for name in names] == [0.25, None]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no columns wsi and qc"),
        ("wsi\nbatch/s1.svs\n", "no columns wsi and qc"),
        ('wsi,qc,note\nbatch/s1.svs,accept,"open', "1 decision loaded"),
        (
            "note,qc,wsi\n,accept,batch/s1.svs\r\n,maybe,batch/s2.svs\n,flag,unknown.svs",
            "1 decision loaded, 2 rows left out",
        ),
        ("wsi,qc\n__proto__,accept\nconstructor,flag\n", "0 decisions loaded, 2 rows left out"),
    ],
)
def test_a_loaded_file_may_be_anything(page: Chrome, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "review.csv"
    path.write_text(content)
    _one(page, "#load-file").send_keys(str(path))
    _wait_for(lambda: said in _one(page, "#review-counts").text)


@pytest.mark.parametrize(
    "kept", ["{", "[]", '"x"', '{"batch/s1.svs": null}', '{"batch/s1.svs": {"qc": "<b>", "note": 5}}']
)
def test_damaged_storage_does_no_harm(page: Chrome, cohort: Job, kept: str) -> None:
    page.execute_script(
        "localStorage.setItem(`trident-report:${arguments[0]}`, arguments[1])", str(cohort.job_dir), kept
    )
    page.refresh()
    assert _one(page, "#review-counts").text.startswith("0 accepted, 0 flagged, 9 undecided")
    assert len(_names(page)) == 9


def test_a_thousand_rows_are_not_all_there(browser: Chrome, make_job: Callable[[str], Job]) -> None:
    job = make_job("thousand")
    job.job_file(*(f"slide-{at}.svs" for at in range(1000)))
    page = _opened(browser, write_report(job.job_dir))
    assert len(page.find_elements("css selector", "#body tr")) < 60
    _one(page, "#body tr[tabindex='0']").click()
    _press(page, "ESCAPE", "END")
    assert _focused(page) == "slide-999.svs", "sorted as numbers"
    assert len(page.find_elements("css selector", "#body tr")) < 60
    page.execute_script("document.getElementById('grid-box').scrollTop = 0")
    _wait_for(lambda: _names(page)[0] == "slide-0")
    _press(page, "ARROW_UP")
    assert _focused(page) == "slide-998.svs", "keys go on from the row that was scrolled away"


def test_an_empty_job(browser: Chrome, make_job: Callable[[str], Job]) -> None:
    page = _opened(browser, write_report(make_job("nothing").job_dir))
    assert _one(page, "#nothing").text == "No slide has been begun in this job directory."
    assert not _one(page, "#start-review").is_enabled()
    assert page.get_log("browser") == []


@pytest.mark.parametrize(
    ("with_state", "expected"),
    [(False, ["–", "–", "–"]), (True, ["0.24 mm²", "0", "3 s"])],
)
def test_what_nobody_knows_is_no_zero(
    with_state: bool, expected: list[str], browser: Chrome, make_job: Callable[[str], Job]
) -> None:
    """Another program's outlines come without states and µm/px."""
    job = make_job(f"known-{with_state}")
    for name in ("a", "b"):
        job.outlines(name, job.square)
    if with_state:
        job.state("a.svs", {"segmentation": 3.0})
        job.patches("a", 0)
    page = _opened(browser, write_report(job.job_dir))
    tiles = dict(tile.text.splitlines() for tile in page.find_elements("css selector", "#tiles li"))
    assert [tiles[name] for name in ("Tissue", "Patches", "Time in stages")] == expected


def test_several_grids(browser: Chrome, make_job: Callable[[str], Job]) -> None:
    job = make_job("grids")
    for name, counts in (("a", (1, 20)), ("b", (2, 10))):
        job.slide(f"{name}.svs", patches=counts[0])
        job.patches(name, counts[1], grid="5x_512px_0px_overlap")
    page = _opened(browser, write_report(job.job_dir))
    _one(page, "[data-column=patches]").click()
    assert _names(page) == ["a", "b"]
    _one(page, "#grid option[value='1']").click()
    assert _names(page) == ["b", "a"]
    assert _one(page, "#body tr[data-slide] td:nth-child(6)").text == "10"
