"""Patch encoders that timm's networks hold once the published tensors bear timm's names."""

from __future__ import annotations

from trident.encoders.patch.declarations.common import (
    HALF_224,
    IMAGENET_224,
    IMAGENET_224_BICUBIC,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ONLY_224,
    TIMM,
    return_type,
)
from trident.encoders.patch.spec import PatchEncoderSpec, TransformSpec

_NAMING = "trident.encoders.patch.published_names"

_PHIKON = PatchEncoderSpec(
    name="phikon",
    builder=TIMM,
    architecture="vit_base_patch16_224",
    arguments={"num_classes": 0, "norm_layer": "LayerNorm-1e-12"},
    naming=f"{_NAMING}:from_transformers",
    unused_weights=("embeddings.mask_token", "pooler."),
    repo_id="owkin/phikon",
    filenames=("model.safetensors", "pytorch_model.bin"),
    licence="not stated",
    transform=TransformSpec(224, None, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    input_size_px=224,
    fixed_size_reason=ONLY_224,
    embedding_dim=768,
    precision="float32",
    magnification=20,
    patch_size_px=224,
)

_PHIKON_V2 = PatchEncoderSpec(
    name="phikon_v2",
    builder=TIMM,
    architecture="vit_large_patch16_224",
    arguments={"init_values": 1.0, "num_classes": 0},
    naming=f"{_NAMING}:from_transformers",
    resampled_positions="bicubic",
    unused_weights=("embeddings.mask_token",),
    repo_id="owkin/phikon-v2",
    filenames=("model.safetensors", "pytorch_model.bin"),
    licence="not stated",
    transform=IMAGENET_224,
    input_size_px=224,
    fixed_size_reason=ONLY_224,
    embedding_dim=1024,
    precision="float32",
    magnification=20,
    patch_size_px=224,
)

_MIDNIGHT = PatchEncoderSpec(
    name="midnight12k",
    builder=TIMM,
    architecture="vit_giant_patch14_dinov2",
    arguments={"img_size": 224, "num_classes": 0, "global_pool": ""},
    naming=f"{_NAMING}:from_transformers",
    resampled_positions="bicubic",
    pooling="cls",
    options=(return_type(3072),),
    unused_weights=("embeddings.mask_token",),
    repo_id="kaiko-ai/midnight",
    filenames=("model.safetensors", "pytorch_model.bin"),
    licence="MIT",
    transform=HALF_224,
    input_size_px=224,
    fixed_size_reason=ONLY_224,
    embedding_dim=1536,
    precision="float16",
    magnification=20,
    patch_size_px=224,
)

_HIBOU_L = PatchEncoderSpec(
    name="hibou_l",
    builder=TIMM,
    architecture="vit_large_patch14_reg4_dinov2",
    arguments={
        "img_size": 224,
        "num_classes": 0,
        "mlp_ratio": 5.34375,  # two halves of 2736 for a width of 1024
        "mlp_layer": "SwiGLUPacked",
        "act_layer": "SiLU",
    },
    naming=f"{_NAMING}:from_transformers_dinov2_with_registers",
    resampled_positions="bicubic-antialias",
    unused_weights=("embeddings.mask_token",),
    repo_id="histai/hibou-L",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="Apache-2.0",
    transform=TransformSpec(224, None, "bicubic", (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)),
    input_size_px=224,
    fixed_size_reason=ONLY_224,
    embedding_dim=1024,
    precision="float32",
    magnification=20,
    patch_size_px=224,
)

_OPENMIDNIGHT = PatchEncoderSpec(
    name="openmidnight",
    builder=TIMM,
    architecture="vit_giant_patch14_reg4_dinov2",
    arguments={"img_size": 224, "num_classes": 0},
    naming=f"{_NAMING}:from_dinov2",
    resampled_positions="bicubic-antialias",
    unused_weights=("mask_token",),
    repo_id="SophontAI/OpenMidnight",
    filenames=("teacher_checkpoint_load.pt",),
    gated=True,
    licence="not stated",
    transform=TransformSpec(224, None, "bilinear", IMAGENET_MEAN, IMAGENET_STD, keep_aspect=False),
    input_size_px=224,
    fixed_size_reason=ONLY_224,
    embedding_dim=1536,
    precision="float16",
    magnification=20,
    patch_size_px=224,
)

_KEEP = PatchEncoderSpec(
    name="keep",
    builder="trident.encoders.patch.timm_models:build_keep",
    architecture="vit_large_patch16_224",
    arguments={"init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
    naming=f"{_NAMING}:from_keep",
    unused_weights=("text.", "logit_scale"),  # the half that reads text
    repo_id="Astaxanthin/KEEP",
    filenames=("model.safetensors", "pytorch_model.bin"),
    licence="MIT",
    transform=IMAGENET_224_BICUBIC,
    input_size_px=224,
    fixed_size_reason=ONLY_224,
    embedding_dim=768,
    precision="float16",
    magnification=20,
    patch_size_px=256,
)

DECLARATIONS: tuple[PatchEncoderSpec, ...] = (_PHIKON, _PHIKON_V2, _MIDNIGHT, _HIBOU_L, _OPENMIDNIGHT, _KEEP)
"""The encoders of this module."""
