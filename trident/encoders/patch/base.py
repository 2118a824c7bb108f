"""The interface of every patch encoder. Imports torch: import this module lazily."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trident.encoders.patch.transforms import Transform, sample_pixels
from trident.errors import SettingsError

_accepting = threading.Lock()
"""Of two slides that bring one encoder to a device, one tries it and the other sees what came of that."""


class PatchEncoder(nn.Module):
    """A network with everything that the feature loop needs to know about it.

    Called on a batch of transformed patches (B, 3, H, W), it gives features (B, `embedding_dim`). Weights in half
    precision stay as they are where float32 patches pass through them (see `accept_patches`).
    """

    enc_name: str
    """Name, as in file names and attributes."""
    eval_transforms: Transform
    """PIL RGB image of a patch -> float32 tensor (3, H, W)."""
    precision: torch.dtype
    """Autocast type on a GPU; a CPU computes in float32."""
    weights_sha256: str | None
    """Digest of the weights file; None where there is none or it is not known."""
    input_size: int | None
    """Side in pixels of the network's input, as `eval_transforms` makes it; None: any."""
    options: Mapping[str, object]
    """The encoder's own options that shape its features, as far as they are not the defaults."""
    reentrant: bool
    """Whether several threads may call it at once: it keeps nothing between or beside its calls, hooks included."""
    given_dtypes: Mapping[str, torch.dtype]
    """Of weights that became float32: the type in which each was given, by its name in the state dict."""

    def __init__(
        self,
        enc_name: str,
        model: nn.Module,
        eval_transforms: Transform,
        precision: torch.dtype,
        *,
        embedding_dim: int | None,
        weights_sha256: str | None = None,
        input_size: int | None = None,
        options: Mapping[str, object] | None = None,
        reentrant: bool = False,
    ) -> None:
        super().__init__()
        self.enc_name = enc_name
        self.model = model
        self.eval_transforms = eval_transforms
        self.precision = precision
        self.weights_sha256 = weights_sha256
        self.input_size = input_size
        self.options = dict(options or {})
        self.reentrant = reentrant
        self.given_dtypes = {}
        self._embedding_dim = embedding_dim
        self._passed: set[tuple[str, torch.dtype]] = set()

    @property
    def embedding_dim(self) -> int:
        """Length D of a feature vector; for a model of the user's own, found by encoding one patch of noise."""
        if self._embedding_dim is None:
            self.accept_patches()
        if self._embedding_dim is None:
            self._embedding_dim = self._dim_of(self._sample_features(torch.float32))
        return self._embedding_dim

    def accept_patches(self, precision: torch.dtype = torch.float32) -> None:
        """Make weights in half precision take float32 patches on the device where they are.

        They stay as they are where a patch of noise passes: under autocast, or where the model casts its input to a
        type of its own. Else they become float32, which loses nothing.

        Args:
            precision: autocast type in which patches will be encoded; float32 for none.
        """
        with _accepting:
            key = (self._device().type, precision)
            if key in self._passed or not _is_half(self.model):
                return
            try:
                features = self._sample_features(precision)
            except RuntimeError:  # of weights and patches that do not fit; anything else comes again with the patches
                self.given_dtypes = {
                    name: tensor.dtype for name, tensor in self.state_dict().items() if isinstance(tensor, Tensor)
                }
                self.model.float()
                return
            self._passed.add(key)
            if self._embedding_dim is None:
                self._embedding_dim = self._dim_of(features)

    def forward(self, batch: Tensor) -> Tensor:
        """Features (B, D) of transformed patches (B, 3, H, W)."""
        features: Tensor = self.model(batch)
        return features

    def _device(self) -> torch.device:
        return next(self.model.parameters(), torch.empty(0)).device

    def _sample_features(self, precision: torch.dtype) -> object:
        """What the model gives for a batch of one patch of noise."""
        from PIL import Image

        patch = self.eval_transforms(Image.fromarray(sample_pixels(256, 256)))
        device = self._device()
        reduced = precision is not torch.float32
        was_training = self.training
        try:
            with torch.inference_mode(), torch.autocast(device.type, precision if reduced else None, enabled=reduced):
                features: object = self.eval()(patch.unsqueeze(0).to(device))
        finally:
            self.train(was_training)
        return features

    def _dim_of(self, features: object) -> int:
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[0] != 1:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise SettingsError(
                f"encoder {self.enc_name} gave {shape} for a batch of one patch; its model must give a tensor (B, D)"
            )
        return int(features.shape[1])


def _is_half(model: nn.Module) -> bool:
    return any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.parameters())


class CustomInferenceEncoder(PatchEncoder):
    """A model of the user's own as a patch encoder.

    Args:
        enc_name: name, as it shall stand in file names and attributes.
        model: (B, 3, H, W) -> (B, D).
        transforms: PIL RGB image -> float32 tensor (3, H, W).
        precision: autocast type on a GPU.
        reentrant: whether several threads may call the model at once; faster on a CPU, where its forward keeps nothing.
    """

    def __init__(
        self,
        enc_name: str,
        model: nn.Module,
        transforms: Transform,
        precision: torch.dtype,
        *,
        reentrant: bool = False,
    ) -> None:
        super().__init__(enc_name, model, transforms, precision, embedding_dim=None, reentrant=reentrant)
