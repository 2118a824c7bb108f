"""trident/encoders/slide/factory.py: names, options, freezing, and where weights come from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trident.encoders import weights
from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.registry import AVAILABLE_SLIDE_ENCODERS
from trident.errors import NotAvailableError, SettingsError, WeightsError

SeededState = Callable[[str], dict[str, Tensor]]


@pytest.mark.parametrize("name", [name for name in AVAILABLE_SLIDE_ENCODERS if name.startswith("mean-")])
def test_every_mean_builds(name: str) -> None:
    assert encoder_factory(name).enc_name == name


@pytest.mark.parametrize("freeze", [True, False])
def test_freeze(freeze: bool, seeded_file: Callable[[str], Path]) -> None:
    encoder = encoder_factory("feather", weights_path=seeded_file("feather"), freeze=freeze)
    assert encoder.training is not freeze
    assert {parameter.requires_grad for parameter in encoder.parameters()} == {not freeze}
    if not freeze:
        encoder({"features": torch.randn(1, 9, 768)}).sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_weights_of_the_registry(
    seeded_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = seeded_file("chief")
    (tmp_path / "local.json").write_text(json.dumps({"slide": {"chief": path.name}}))
    monkeypatch.setenv(weights.LOCAL_CKPTS_ENV, str(tmp_path / "local.json"))
    assert encoder_factory("chief").weights_sha256 == weights.sha256_of(path)


@pytest.mark.parametrize("config", ["{}", '{"n_heads": 8}', None])
def test_files_beside_downloaded_weights_are_fetched(
    config: str | None,
    seeded_state: SeededState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.save(seeded_state("madeleine"), tmp_path / "model.pt")

    def from_hub(source: weights.WeightsSource, weights_path: object = None) -> weights.WeightsFile:
        path = tmp_path / source.filenames[0]
        if not path.exists():
            if config is None:
                raise WeightsError("the hub cannot be reached")
            path.write_text(config)
        return weights.WeightsFile(path, "hub")

    monkeypatch.setattr(weights, "fetch", from_hub)
    if config and "n_heads" in config:
        with pytest.raises(WeightsError, match="n_heads is 8 instead of 4"):
            encoder_factory("madeleine")
        return
    with caplog.at_level(logging.WARNING):
        assert encoder_factory("madeleine").weights_sha256 == weights.sha256_of(tmp_path / "model.pt")
    assert ("going on without model_config.json: the hub cannot be reached" in caplog.text) is (config is None)


@pytest.mark.parametrize(
    ("name", "options", "error", "expected"),
    [
        ("threads", {}, NotAvailableError, "neither its code nor its weights are published"),
        ("chief", {}, WeightsError, "download CHIEF_pretraining.pth from the Google Drive folder that the README"),
        ("mean-uni", {}, SettingsError, "did you mean"),
        ("mean-uni_v1", {"weights_path": "w.bin"}, SettingsError, "has no weights"),
        (
            "mean-uni_v1",
            {"heads": 2},
            SettingsError,
            "no option heads; its options are weights_path, pretrained, freeze",
        ),
        ("titan", {"trust_remote_code": True}, SettingsError, "titan has no option trust_remote_code"),
        ("feather", {"weights_path": "/nowhere/w.pth"}, WeightsError, "/nowhere/w.pth: no such file"),
    ],
)
def test_refused(name: str, options: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        encoder_factory(name, **options)  # type: ignore[arg-type]
