"""How the page looks, as far as numbers say it: contrast in both colour schemes, and nothing outside or overlapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from trident.viz.report.write import write_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MIN_TEXT_RATIO = 4.5
MIN_CONTROL_RATIO = 3.0
"""WCAG 2.2, level AA: text, and the borders and focus marks of controls."""

_TEXTS = """
const seen = new Map();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const layers = (node) => {
  const found = [];
  for (let e = node; e; e = e.parentElement) found.push(getComputedStyle(e).backgroundColor);
  return found;
};
const add = (what, colour, element) =>
  seen.set([colour, ...layers(element)].join("|"), [what, colour, layers(element)]);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const element = node.parentElement;
  if (!node.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) continue;
  if (!element.checkVisibility() || element.closest("#banners details:not([open])")) continue;
  add(node.data.trim().slice(0, 40), getComputedStyle(element).color, element);
}
const search = document.getElementById("search");
add("placeholder", getComputedStyle(search, "::placeholder").color, search);
return [...seen.values()];
"""
_BORDERS = """
return [...document.querySelectorAll("button, select, input[type=search], textarea")]
  .filter((e) => e.checkVisibility() && !e.disabled && parseFloat(getComputedStyle(e).borderTopWidth) > 0)
  .map((e) => {
    const found = [];
    for (let p = e.parentElement; p; p = p.parentElement) found.push(getComputedStyle(p).backgroundColor);
    return [e.id || e.textContent, getComputedStyle(e).borderTopColor, found];
  });
"""
_OVERLAPS = """
const visible = [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility());
const boxes = visible.map((e) => [e, e.getBoundingClientRect()]);
const hits = [];
boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
  if (a.contains(b) || b.contains(a)) return;
  const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
  const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
  if (across > 1 && down > 1) hits.push(`${a.id || a.textContent} / ${b.id || b.textContent}`);
}));
return hits;
"""


def _rgba(colour: str) -> tuple[float, float, float, float]:
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].replace(",", " ").replace("/", " ").split()]
    assert colour.startswith("rgb"), colour
    red, green, blue, *alpha = numbers
    return red, green, blue, alpha[0] if alpha else 1.0


def _over(top: tuple[float, ...], below: tuple[float, ...]) -> tuple[float, ...]:
    share = top[3]
    return (*(share * a + (1 - share) * b for a, b in zip(top[:3], below[:3], strict=True)), 1.0)


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _ratio(colour: str, layers: list[str]) -> float:
    """WCAG contrast ratio of a colour on backgrounds that lie on each other, the uppermost first."""
    ground: tuple[float, ...] = (255.0, 255.0, 255.0, 1.0)
    for layer in reversed(layers):
        ground = _over(_rgba(layer), ground)
    light, dark = sorted((_luminance(_over(_rgba(colour), ground)), _luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def page(browser: Chrome, make_job: Callable[[str], Any]) -> Iterator[Chrome]:
    """A page on which everything that has a colour of its own is to be seen."""
    job = make_job("look")
    for at, count in enumerate((10, 11, 12, 13, 14, 900)):
        job.slide(f"s{at}.svs", patches=count)
    job.state("failed.svs", {"segmentation": job.failed("before", "it is cut off")})
    job.state("cut.svs", {"segmentation": {"status": "running", "attempts": [], "outputs": {}}})
    job.state("gone.svs", {"segmentation": 1.0})
    (job.layout.states_dir / "damaged.json").write_text("{")
    job.manifest(status="error", error="1 of 9 slides failed")
    browser.get(write_report(job.job_dir).as_uri())
    yield browser
    browser.set_window_size(1400, 1000)
    _set_scheme(browser, "")


def _set_scheme(browser: Chrome, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def test_the_measure_itself() -> None:
    assert _ratio("rgb(0, 0, 0)", ["rgb(255, 255, 255)"]) == pytest.approx(21)
    assert _ratio("rgb(119, 119, 119)", ["rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"]) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", ["page", "slide"])
def test_contrast(page: Chrome, scheme: str, where: str) -> None:
    page.refresh()
    _set_scheme(page, scheme)
    for slide in ("s1", "s2"):
        page.find_element("css selector", f"tr[data-slide='{slide}.svs'] button").click()
    page.find_elements("css selector", "tr[data-slide='s3.svs'] button")[1].click()
    if where == "slide":
        page.find_element("css selector", "tr[data-slide='failed.svs']").click()
        page.find_element("id", "flag").click()
    # Colours that fade in are looked at once they are there.
    page.execute_script("document.getAnimations().forEach((animation) => animation.finish())")
    dark = _luminance(_rgba(page.execute_script("return getComputedStyle(document.body).backgroundColor"))) < 0.2
    assert dark is (scheme == "dark")
    texts = page.execute_script(_TEXTS)
    assert len(texts) > 12
    low = {what: round(_ratio(colour, layers), 2) for what, colour, layers in texts}
    assert {what: ratio for what, ratio in low.items() if ratio < MIN_TEXT_RATIO} == {}
    borders = {what: round(_ratio(colour, layers), 2) for what, colour, layers in page.execute_script(_BORDERS)}
    assert {what: ratio for what, ratio in borders.items() if ratio < MIN_CONTROL_RATIO} == {}


def test_the_button_overrides_the_system(page: Chrome) -> None:
    page.refresh()
    _set_scheme(page, "light")
    grounds = []
    for _ in range(4):
        grounds.append(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
        page.find_element("id", "theme").click()
    auto, light, dark, again = (_luminance(_rgba(ground)) for ground in grounds)
    assert auto == light == again > 0.8 > 0.1 > dark


@pytest.mark.parametrize("width_px", [1400, 1000, 600])
def test_nothing_sticks_out_or_overlaps(page: Chrome, width_px: int) -> None:
    page.refresh()
    page.set_window_size(width_px, 900)
    wide, inside = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inside
    for selector in ("main > section", ".toolbar label, .toolbar button", "#tiles li", ".chart", ".review-bar button"):
        assert page.execute_script(_OVERLAPS, selector) == []
    assert page.execute_script(_OVERLAPS, "#body tr[data-slide] td") == []
    page.find_element("css selector", "tr[data-slide='failed.svs']").click()
    assert (
        page.execute_script(_OVERLAPS, ".detail-head > *, .detail-body > *, .decide button, .detail-head button") == []
    )
    body_wide, body_inside = page.execute_script(
        "const b = document.querySelector('.detail-body'); return [b.scrollWidth, b.clientWidth]"
    )
    assert body_wide <= body_inside
