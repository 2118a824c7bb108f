"""trident/encoders/names.py: the hint for a name that does not exist."""

from __future__ import annotations

import pytest

from trident.encoders.names import explain_unknown

KNOWN = ("uni_v1", "uni_v2", "resnet50")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("uni-v1", "; did you mean uni_v1?"),
        ("UNI_V2", "; did you mean uni_v2?"),
        ("resnet-50", "; did you mean resnet50?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_hint(name: str, hint: str) -> None:
    text = explain_unknown("patch encoder", name, KNOWN)
    assert text == f"unknown patch encoder {name!r}{hint} (known: uni_v1, uni_v2, resnet50)"
