"""Slide encoders with transformer networks. Nothing heavy is imported here."""

from __future__ import annotations

from trident.encoders.slide.spec import SlideEncoderSpec

_TITAN = SlideEncoderSpec(
    name="titan",
    builder="trident.encoders.slide.titan:build",
    patch_encoder="conch_v15",
    input_dim=768,
    embedding_dim=768,
    precision="float16",
    patch_size_px=512,
    magnification=20,
    takes_overlap=False,
    repo_id="MahmoodLab/TITAN",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
)

_PRISM = SlideEncoderSpec(
    name="prism",
    builder="trident.encoders.slide.prism:build",
    patch_encoder="virchow",
    input_dim=2560,
    embedding_dim=1280,
    precision="float16",
    patch_size_px=224,
    magnification=20,
    repo_id="paige-ai/Prism",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
)

_GIGAPATH = SlideEncoderSpec(
    name="gigapath",
    builder="trident.encoders.slide.gigapath:build",
    patch_encoder="gigapath",
    input_dim=1536,
    embedding_dim=768,
    precision="float16",
    patch_size_px=256,
    magnification=20,
    takes_overlap=False,
    repo_id="prov-gigapath/prov-gigapath",
    filenames=("slide_encoder.pth",),
    gated=True,
    licence="Apache-2.0, with conditions",
)

DECLARATIONS: tuple[SlideEncoderSpec, ...] = (_TITAN, _PRISM, _GIGAPATH)
