"""Slide encoders of the attention-pooling kind, and two that live elsewhere. Nothing heavy is imported here."""

from __future__ import annotations

from trident.encoders.slide.spec import SlideEncoderSpec

_THREADS = SlideEncoderSpec(
    name="threads",
    builder="",
    patch_encoder="conch_v15",
    embedding_dim=None,
    patch_size_px=512,
    magnification=20,
    unavailable="neither its code nor its weights are published",
)

_CHIEF = SlideEncoderSpec(
    name="chief",
    builder="trident.encoders.slide.chief:build",
    patch_encoder="ctranspath",
    input_dim=768,
    embedding_dim=768,
    patch_size_px=256,
    magnification=10,
    filenames=("CHIEF_pretraining.pth",),
    licence="AGPL-3.0",
    obtain=(
        "download CHIEF_pretraining.pth from the Google Drive folder that the README of "
        "https://github.com/hms-dbmi/CHIEF links to"
    ),
)

_MADELEINE = SlideEncoderSpec(
    name="madeleine",
    builder="trident.encoders.slide.madeleine:build",
    patch_encoder="conch_v1",
    input_dim=512,
    embedding_dim=512,
    precision="bfloat16",
    patch_size_px=256,
    magnification=10,
    repo_id="MahmoodLab/madeleine",
    filenames=("model.pt",),
    companions=("model_config.json",),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
)

_FEATHER = SlideEncoderSpec(
    name="feather",
    builder="trident.encoders.slide.feather:build",
    patch_encoder="conch_v15",
    input_dim=768,
    embedding_dim=512,
    patch_size_px=512,
    magnification=20,
    repo_id="MahmoodLab/abmil.base.conch_v15.pc108-24k",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
)

_FEATHER_UNI_V2 = SlideEncoderSpec(
    name="feather_uni_v2",
    builder="trident.encoders.slide.feather:build",
    patch_encoder="uni_v2",
    input_dim=1536,
    embedding_dim=512,
    patch_size_px=256,
    magnification=20,
    repo_id="MahmoodLab/abmil.base.uni_v2.pc108-24k",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
)

_ABMIL = SlideEncoderSpec(
    name="abmil",
    builder="trident.encoders.slide.abmil:build",
    patch_encoder=None,
    embedding_dim=None,
    filenames=("model.safetensors", "pytorch_model.bin"),
    licence="your own weights",
    obtain="train it (trident.slide_encoder_models.ABMILSlideEncoder) and save its state dict",
    weights_optional=True,
    options=("input_feature_dim", "n_heads", "head_dim", "dropout", "gated"),
)

_CARE = SlideEncoderSpec(
    name="care",
    builder="trident.encoders.slide.care:build",
    patch_encoder="conch_v15",
    input_dim=768,
    embedding_dim=512,
    patch_size_px=512,
    magnification=20,
    takes_overlap=False,
    repo_id="Zipper-1/CARE",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="CC-BY-NC-4.0",
    remote_code=True,
    options=("trust_remote_code", "revision"),
)

DECLARATIONS: tuple[SlideEncoderSpec, ...] = (_THREADS, _CHIEF, _MADELEINE, _FEATHER, _FEATHER_UNI_V2, _ABMIL, _CARE)
