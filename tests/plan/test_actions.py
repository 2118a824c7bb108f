"""Which stages may be made anew although they are done."""

from __future__ import annotations

import pytest

from trident.job import STAGE_KINDS
from trident.plan.actions import causes, redone_before

SEG, COORDS, UNI, CONCH = "segmentation", "coords", "patch_features:uni_v1", "patch_features:conch_v15"
TITAN, ANY = "slide_features:titan", "slide_features:abmil"
KEYS = (SEG, COORDS, UNI, CONCH, TITAN, ANY)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ("......", {}),
        ("rrrrrr", {}),
        (".r....", dict.fromkeys((UNI, CONCH, TITAN, ANY), COORDS)),
        ("rr....", dict.fromkeys((UNI, CONCH, TITAN, ANY), SEG)),
        ("r.r.r.", dict.fromkeys((COORDS, CONCH, ANY), SEG)),
        ("..r...", {ANY: UNI}),
        ("...r..", {TITAN: CONCH, ANY: CONCH}),
        ("..rr..", {TITAN: CONCH, ANY: UNI}),
        ("....r.", {}),
        (".s....", {}),
        ("rs....", dict.fromkeys((UNI, CONCH, TITAN, ANY), SEG)),
    ],
)
def test_what_is_made_from_a_stage_that_runs(actions: str, expected: dict[str, str]) -> None:
    words = {".": "skip", "r": "run", "s": "stop"}
    by_key = {key: words[letter] for key, letter in zip(KEYS, actions, strict=True)}
    assert redone_before(by_key) == expected


def test_causes() -> None:
    assert causes([]) == ""
    assert causes([UNI, COORDS, CONCH]) == "coordinates or patch features"
    assert set(STAGE_KINDS) == {key.partition(":")[0] for key in KEYS}
