"""Recipes: what counts as a change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store.recipes import JSON, Recipe, VerdictKind, compare, sha256_of

SOURCE = Path("/job/a.h5")
BASE = Recipe(
    "coords",
    {"mag": 20, "overlap": 0, "segmenter": {"name": "otsu", "threshold": None}, "ext": [".svs"], "holes": True},
    {"tissue": "sha256:aa"},
    {"host": "a"},
)


@pytest.mark.parametrize(
    ("changes", "kind", "keys"),
    [
        ({}, VerdictKind.SAME, []),
        ({"facts": {"host": "b", "reader": "cucim"}}, VerdictKind.SAME, []),
        ({"settings": {**BASE.settings, "mag": 20.0}}, VerdictKind.SAME, []),
        ({"settings": {**BASE.settings, "new": 1}}, VerdictKind.SAME, []),
        ({"settings": {"mag": 20}}, VerdictKind.SAME, []),
        ({"settings": {**BASE.settings, "mag": None}}, VerdictKind.SAME, []),
        ({"settings": {**BASE.settings, "ext": (".svs",)}}, VerdictKind.SAME, []),
        ({"settings": {**BASE.settings, "segmenter": {"name": "otsu", "threshold": 0.5}}}, VerdictKind.SAME, []),
        ({"settings": {**BASE.settings, "segmenter": {"name": "hest"}}}, VerdictKind.DIFFERENT, ["segmenter.name"]),
        ({"settings": {**BASE.settings, "mag": 20.5, "overlap": 8}}, VerdictKind.DIFFERENT, ["mag", "overlap"]),
        ({"settings": {**BASE.settings, "mag": "20"}}, VerdictKind.DIFFERENT, ["mag"]),
        ({"settings": {**BASE.settings, "holes": 1}}, VerdictKind.DIFFERENT, ["holes"]),
        ({"settings": {**BASE.settings, "ext": [".svs", ".tif"]}}, VerdictKind.DIFFERENT, ["ext"]),
        ({"stage": "segmentation"}, VerdictKind.DIFFERENT, ["stage"]),
        ({"inputs": {"tissue": "sha256:bb"}}, VerdictKind.STALE, ["tissue"]),
        ({"inputs": {}}, VerdictKind.SAME, []),
        ({"settings": {"mag": 10}, "inputs": {"tissue": "sha256:bb"}}, VerdictKind.DIFFERENT, ["mag"]),
    ],
)
def test_compare(changes: dict[str, JSON], kind: VerdictKind, keys: list[str]) -> None:
    verdict = compare(BASE, replace(BASE, **changes))  # type: ignore[arg-type]
    assert verdict.kind is kind
    assert [key for key, _, _ in verdict.differences] == keys


def test_an_output_without_recipe_is_foreign() -> None:
    assert compare(None, BASE).kind is VerdictKind.FOREIGN


def test_describe_is_one_line_with_short_digests() -> None:
    wanted = replace(BASE, settings={**BASE.settings, "mag": 2.5, "segmenter": {"name": "hest"}})
    assert compare(BASE, wanted).describe() == "mag: 20 -> 2.5, segmenter.name: otsu -> hest"
    stale = replace(BASE, inputs={"tissue": "sha256:" + "0123456789abcdef" * 4})
    assert compare(BASE, stale).describe() == "tissue: sha256:aa -> sha256:0123456789ab"
    assert compare(BASE, BASE).describe() == "same recipe"


def test_a_recipe_comes_back_from_json() -> None:
    assert Recipe.from_json(BASE.to_json(), SOURCE) == BASE
    assert "\n" not in BASE.to_json()
    assert BASE.to_json().isascii()


def test_a_recipe_that_has_no_json_form() -> None:
    with pytest.raises(StoreError, match="no JSON form"):
        Recipe("coords", {"mpp": float("nan")}).to_json()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an object"),
        ('"text"', "not an object"),
        ("{}", "its version is None"),
        (json.dumps({**BASE.to_dict(), "recipe_version": 2}), "its version is 2"),
        (json.dumps({**BASE.to_dict(), "stage": 3}), "names no stage"),
        (json.dumps({**BASE.to_dict(), "settings": []}), "'settings' is not an object"),
        (json.dumps({**BASE.to_dict(), "facts": "x"}), "'facts' is not an object"),
        (json.dumps({**BASE.to_dict(), "inputs": {"a": 3}}), "digest in it is not a text"),
    ],
)
def test_a_damaged_recipe_is_one_line(text: str, why: str) -> None:
    with pytest.raises(StoreError) as caught:
        Recipe.from_json(text, SOURCE)
    assert why in str(caught.value)
    assert str(caught.value).startswith("/job/a.h5: ")
    assert "--overwrite" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 10_000])
def test_sha256(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_of(path) == "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["missing", "."])
def test_sha256_of_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        sha256_of(tmp_path / name)
