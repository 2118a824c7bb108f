"""trident/encoders/patch/base.py: a model of the user's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from trident.encoders.patch.base import CustomInferenceEncoder
from trident.errors import SettingsError


class _Counting(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.calls = 0
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        assert not self.training
        return torch.zeros(batch.shape[0], *self.shape)


def _encoder(model: nn.Module) -> CustomInferenceEncoder:
    to_tensor = transforms.Compose([transforms.Resize(32), transforms.ToTensor()])
    return CustomInferenceEncoder("mine", model, to_tensor, torch.float16)


def test_dimension_is_found_once() -> None:
    model = _Counting((7,))
    encoder = _encoder(model)
    assert model.calls == 0
    assert encoder.embedding_dim == 7
    assert encoder.embedding_dim == 7
    assert model.calls == 1
    assert encoder.training  # left as it was
    assert (encoder.enc_name, encoder.precision, encoder.weights_sha256) == ("mine", torch.float16, None)


@pytest.mark.parametrize("shape", [(), (3, 4)])
def test_output_that_is_no_feature_vector(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"encoder mine gave .* must give a tensor \(B, D\)"):
        _ = _encoder(_Counting(shape)).embedding_dim
