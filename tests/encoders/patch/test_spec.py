"""trident/encoders/patch/spec.py: an encoder's own options."""

from __future__ import annotations

import pytest

from trident.encoders.patch.registry import SPECS
from trident.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "given", "complete", "unusual", "dim"),
    [
        ("uni_v1", {}, {}, {}, 1024),
        ("virchow", {}, {"return_cls": False}, {}, 2560),
        ("virchow", {"return_cls": False}, {"return_cls": False}, {}, 2560),
        ("virchow2", {"return_cls": True}, {"return_cls": True}, {"return_cls": True}, 1280),
        ("midnight12k", {}, {"return_type": "cls"}, {}, 1536),
        ("midnight12k", {"return_type": "cls+mean"}, {"return_type": "cls+mean"}, {"return_type": "cls+mean"}, 3072),
        ("h0-mini", {"return_type": "cls+mean"}, {"return_type": "cls+mean"}, {"return_type": "cls+mean"}, 1536),
    ],
)
def test_options(
    name: str, given: dict[str, object], complete: dict[str, object], unusual: dict[str, object], dim: int
) -> None:
    declared = SPECS[name]
    options = declared.resolve_options(given)
    assert options == complete
    assert declared.unusual(options) == unusual
    assert declared.embedding_dim_for(options) == dim


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("uni_v1", {"return_cls": True}, "has no option return_cls; its options are weights_path, img_size"),
        ("virchow", {"b": 1, "a": 2}, "has no option a, b; its options are weights_path, img_size, return_cls"),
        ("virchow", {"return_cls": "yes"}, "return_cls='yes' of patch encoder virchow is not one of False, True"),
        ("virchow", {"return_cls": 0}, "return_cls=0 of patch encoder virchow is not one of False, True"),
        ("midnight12k", {"return_type": None}, "return_type=None of patch encoder midnight12k is not one of 'cls', "),
    ],
)
def test_options_refused(name: str, given: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SPECS[name].resolve_options(given)
    assert expected in str(caught.value)
