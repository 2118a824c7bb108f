"""trident/encoders/slide/care.py: nothing runs unasked, and what is asked for is fed and read rightly.

The published code is not part of the repository, so a snapshot with the same interface stands in for it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trident.encoders.slide.factory import encoder_factory
from trident.encoders.slide.registry import SPECS
from trident.errors import SettingsError, WeightsError

CODE = """
from dataclasses import dataclass
import pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel
pathlib.Path(__file__).with_name("was_run").touch()

class CareConfig(PretrainedConfig):
    model_type = "care-stand-in"

@dataclass
class Output:
    wsi_embedding: torch.Tensor

class CareSSL(PreTrainedModel):
    config_class = CareConfig
    def __init__(self, config):
        super().__init__(config)
        self.head = torch.nn.Linear(768, 510, bias=False)
        self.post_init()

    def forward(self, features, counts, cells):
        places = torch.stack([counts.float(), cells.float().sum(dim=(1, 2))], dim=1)
        return Output(torch.cat([self.head(features).mean(dim=1), places], dim=1))
"""


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code and weights; what is run of it leaves a trace in `modules`."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "modeling_care.py").write_text(CODE)
    auto_map = {"AutoConfig": "modeling_care.CareConfig", "AutoModel": "modeling_care.CareSSL"}
    (folder / "config.json").write_text(json.dumps({"model_type": "care-stand-in", "auto_map": auto_map}))
    save_file({"head.weight": torch.eye(768)[:510].contiguous()}, folder / "model.safetensors", {"format": "pt"})
    import transformers.dynamic_module_utils

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return folder


def _traces(snapshot: Path) -> list[Path]:
    return list(snapshot.parent.rglob("was_run"))


def test_a_trusted_snapshot(snapshot: Path) -> None:
    encoder = encoder_factory("care", weights_path=snapshot, trust_remote_code=True)
    assert _traces(snapshot)
    assert encoder.weights_sha256 is not None
    assert not encoder.training
    features = torch.randn(1, 3, 768)
    coords = torch.tensor([[[1024, 0], [2047, 1024], [0, 4096]]])  # cells (1, 0), (1, 1), (0, 4)
    got = encoder({"features": features, "coords": coords, "attributes": {"patch_size_level0": 1024}}, "cpu")
    assert got.shape == (1, 512)
    torch.testing.assert_close(got[:, :510], features.mean(dim=1)[:, :510])
    assert got[0, 510:].tolist() == [3.0, 1 + 2 + 4]
    assert torch.equal(encoder({"features": features[:, :0], "coords": coords[:, :0]}), torch.zeros(1, 512))


@pytest.mark.parametrize("trust", [False, None, 1, "yes"])
def test_untrusted_code_does_not_run(snapshot: Path, trust: object) -> None:
    with pytest.raises(SettingsError, match=f"Python code in {snapshot}, which would run .*trust_remote_code=True"):
        encoder_factory("care", weights_path=snapshot, trust_remote_code=trust)
    assert not _traces(snapshot)


def test_without_a_snapshot_the_hub_is_named() -> None:
    with pytest.raises(SettingsError, match=r"Python code in https://huggingface\.co/Zipper-1/CARE"):
        encoder_factory("care")


@pytest.mark.parametrize("revision", [None, "main", "v1", "dac6773", "A" * 40])
def test_only_a_commit_will_do(revision: str | None) -> None:
    with pytest.raises(SettingsError, match=f"revision {revision!r} is not a commit"):
        encoder_factory("care", trust_remote_code=True, revision=revision)


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"Zipper-1/CARE cannot be had at {'a' * 40}"):
        encoder_factory("care", trust_remote_code=True, revision="a" * 40)


def test_code_that_does_not_load(snapshot: Path) -> None:
    (snapshot / "modeling_care.py").write_text("raise KeyError('of an older library')")
    with pytest.raises(WeightsError, match=r"the code of care does not load .*of an older library"):
        encoder_factory("care", weights_path=snapshot, trust_remote_code=True)


def test_declared() -> None:
    assert (SPECS["care"].remote_code, SPECS["care"].takes_overlap) == (True, False)
