"""trident/encoders/patch/base.py: a model of the user's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from trident.encoders.patch.base import CustomInferenceEncoder
from trident.errors import SettingsError
from trident.stages.features import settings_of_model


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


class _Casts(nn.Module):
    def __init__(self, weight: torch.dtype, patch: torch.dtype | None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2).to(weight)
        self.patch = patch

    def forward(self, batch: Tensor) -> Tensor:
        flat = batch.flatten(1)[:, :4]
        features: Tensor = self.layer(flat if self.patch is None else flat.to(self.patch))
        return features


F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("weight", "patch", "precision", "kept"),
    [
        (BF16, BF16, F32, BF16),
        (F16, F16, F32, F16),
        (BF16, None, F32, F32),
        (BF16, F32, F32, F32),
        (BF16, None, BF16, BF16),
        (F32, None, F32, F32),
    ],
    ids=["casts", "casts to float16", "does not", "to float32", "under autocast", "float32"],
)
def test_weights_in_half_precision_stay_where_a_patch_passes(
    weight: torch.dtype, patch: torch.dtype | None, precision: torch.dtype, kept: torch.dtype
) -> None:
    encoder = _encoder(_Casts(weight, patch))
    values = encoder.model.layer.weight.detach().float()
    digest = settings_of_model(encoder)
    encoder.accept_patches(precision)
    assert encoder.model.layer.weight.dtype is kept
    assert torch.equal(encoder.model.layer.weight.float(), values)
    assert encoder.embedding_dim == 2
    assert encoder.training
    assert settings_of_model(encoder) == digest  # of the weights as they were given


def test_a_digest_tells_types_apart() -> None:
    torch.manual_seed(0)
    model = _Casts(BF16, None)
    half = settings_of_model(_encoder(model))
    assert settings_of_model(_encoder(model.float())) != half


def test_an_error_of_the_model_itself_leaves_it_as_it_was() -> None:
    class Fails(_Casts):
        def forward(self, batch: Tensor) -> Tensor:
            raise ValueError("no")

    encoder = _encoder(Fails(BF16, None))
    with pytest.raises(ValueError, match="no"):
        encoder.accept_patches()
    assert encoder.training
    assert encoder.model.layer.weight.dtype is BF16
