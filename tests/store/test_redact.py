"""No secret gets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trident.store.redact import plain, redact_text

SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    "key", ["token", "HF_TOKEN", "hf-token", "client_secret", "password", "passwd", "api_key", "apiKey", "credentials"]
)
def test_secret_keys_are_dropped_at_any_depth(key: str) -> None:
    assert plain({key: "x", "a": {key: "x", "b": 1}, "c": [{key: "x"}]}) == {"a": {"b": 1}, "c": [{}]}


@pytest.mark.parametrize("value", [SECRET, f"see {SECRET} here", [SECRET], {"deep": (SECRET,)}, Path(SECRET)])
def test_secret_values_are_taken_out(value: object) -> None:
    assert SECRET not in json.dumps(plain({"a": value}))


def test_urls_lose_their_password() -> None:
    assert redact_text("get https://me:pw@host/a") == "get https://[removed]@host/a"
    assert redact_text("https://host/a@b") == "https://host/a@b"


def test_ordinary_settings_stay() -> None:
    settings = {
        "mag": 20.0,
        "keys": ["a"],
        "flag": True,
        "none": None,
        "path": Path("/a/b"),
        "set": {2, 1},
        "n": (1, 2),
    }
    expected = {**settings, "path": "/a/b", "set": [1, 2], "n": [1, 2]}
    assert plain(settings) == expected
    assert plain({"mpp": float("nan")}) == {"mpp": "nan"}
