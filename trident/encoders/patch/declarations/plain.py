"""Patch encoders that timm holds under the published names, and the one that has no weights."""

from __future__ import annotations

from typing import Any

from trident.encoders.patch.declarations.common import (
    HALF_224,
    IMAGENET_224,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TIMM,
    return_type,
)
from trident.encoders.patch.spec import Option, PatchEncoderSpec, TransformSpec

_RESNET50 = PatchEncoderSpec(
    name="resnet50",
    builder=TIMM,
    architecture="resnet50",
    arguments={"features_only": True, "out_indices": [3]},
    pooling="map-mean",  # the third of four stages: stride 16, 1024 channels
    unused_weights=("layer4.", "fc."),
    repo_id="timm/resnet50.tv_in1k",
    filenames=("model.safetensors", "pytorch_model.bin"),
    licence="not stated",
    transform=IMAGENET_224,
    input_size_px=224,
    img_size_multiple=1,
    embedding_dim=1024,
    precision="float32",
    magnification=20,
    patch_size_px=256,
)

_UNI_V1 = PatchEncoderSpec(
    name="uni_v1",
    builder=TIMM,
    architecture="vit_large_patch16_224",
    arguments={"img_size": 224, "patch_size": 16, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
    repo_id="MahmoodLab/UNI",
    filenames=("pytorch_model.bin",),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
    transform=IMAGENET_224,
    input_size_px=224,
    img_size_multiple=16,
    embedding_dim=1024,
    precision="float16",
    magnification=20,
    patch_size_px=256,
)

_UNI_V2 = PatchEncoderSpec(
    name="uni_v2",
    builder=TIMM,
    architecture="vit_giant_patch14_224",
    arguments={
        "img_size": 224,
        "patch_size": 14,
        "depth": 24,
        "num_heads": 24,
        "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2,
        "init_values": 1e-5,
        "num_classes": 0,
        "no_embed_class": True,
        "reg_tokens": 8,
        "mlp_layer": "SwiGLUPacked",
        "act_layer": "SiLU",
        "dynamic_img_size": True,
    },
    repo_id="MahmoodLab/UNI2-h",
    filenames=("pytorch_model.bin",),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
    transform=IMAGENET_224,
    input_size_px=224,
    img_size_multiple=14,
    embedding_dim=1536,
    precision="bfloat16",
    magnification=20,
    patch_size_px=256,
)

_GIGAPATH = PatchEncoderSpec(
    name="gigapath",
    builder=TIMM,
    architecture="vit_giant_patch14_dinov2",
    arguments={
        "img_size": 224,
        "in_chans": 3,
        "patch_size": 16,  # whatever the architecture's name says
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "mlp_ratio": 5.33334,
        "num_classes": 0,
        "dynamic_img_size": True,
    },
    repo_id="prov-gigapath/prov-gigapath",
    filenames=("pytorch_model.bin",),
    gated=True,
    licence="Apache-2.0",
    transform=TransformSpec(256, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
    input_size_px=224,
    img_size_multiple=16,
    embedding_dim=1536,
    precision="float16",
    magnification=20,
    patch_size_px=256,
)


def _kaiko(size: str, patch_px: int, embedding_dim: int) -> PatchEncoderSpec:
    """One of the four kaiko encoders that differ in width and patch size only."""
    architecture = f"vit_{size}_patch{patch_px}_224"
    return PatchEncoderSpec(
        name=f"kaiko-vit{size[0]}{patch_px}",
        builder=TIMM,
        architecture=architecture,
        arguments={"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
        repo_id=f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms",
        filenames=("model.safetensors",),
        licence="kaiko-non-commercial",
        transform=HALF_224,
        input_size_px=224,
        img_size_multiple=patch_px,
        embedding_dim=embedding_dim,
        precision="float32",
        magnification=20,
        patch_size_px=256,
    )


_KAIKO_VITL14 = PatchEncoderSpec(
    name="kaiko-vitl14",
    builder=TIMM,
    architecture="vit_large_patch14_reg4_dinov2",
    # The published position table is 37 x 37 (518 px) and is resampled to the input at every forward.
    arguments={"img_size": 518, "num_classes": 0, "dynamic_img_size": True},
    # The hub forwards this name to the repository's present one (..._reg4_224.kaiko_...).
    repo_id="1aurent/vit_large_patch14_reg4_dinov2.kaiko_ai_towards_large_pathology_fms",
    filenames=("model.safetensors",),
    licence="kaiko-non-commercial",
    transform=HALF_224,
    input_size_px=224,
    img_size_multiple=14,
    embedding_dim=1024,
    precision="float32",
    magnification=20,
    patch_size_px=256,
)

_LUNIT_VITS8 = PatchEncoderSpec(
    name="lunit-vits8",
    builder=TIMM,
    architecture="vit_small_patch8_224",
    arguments={"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
    repo_id="1aurent/vit_small_patch8_224.lunit_dino",
    filenames=("model.safetensors",),
    licence="lunit-non-commercial",
    # 224 px is 0.9 of what the patch is resized to, and ImageNet's statistics are used: as its hub configuration says.
    transform=TransformSpec(248, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
    input_size_px=224,
    img_size_multiple=8,
    embedding_dim=384,
    precision="float32",
    magnification=20,
    patch_size_px=224,
)


def _virchow(name: str, repo_id: str, licence: str, **arguments: int) -> PatchEncoderSpec:
    """One of the two Virchow encoders, which differ in register tokens only."""
    return PatchEncoderSpec(
        name=name,
        builder=TIMM,
        architecture="vit_huge_patch14_224",
        arguments={
            "img_size": 224,
            "init_values": 1e-5,
            "num_classes": 0,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
            "dynamic_img_size": True,
            **arguments,
        },
        pooling="cls+mean",
        options=(Option("return_cls", (False, True), {True: 1280}),),
        repo_id=repo_id,
        filenames=("pytorch_model.bin",),
        gated=True,
        licence=licence,
        transform=TransformSpec(224, None, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        input_size_px=224,
        img_size_multiple=14,
        embedding_dim=2560,
        precision="float16",
        magnification=20,
        patch_size_px=224,
    )


_BIOPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}


def _h_optimus(number: int, licence: str) -> PatchEncoderSpec:
    """H-optimus-0 or -1: one architecture, two sets of weights."""
    return PatchEncoderSpec(
        name=f"hoptimus{number}",
        builder=TIMM,
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={
            "num_classes": 0,
            "img_size": 224,
            "global_pool": "token",
            "init_values": 1e-5,
            "dynamic_img_size": True,
        },
        repo_id=f"bioptimus/H-optimus-{number}",
        filenames=("pytorch_model.bin", "model.safetensors"),
        gated=True,
        licence=licence,
        transform=TransformSpec(224, None, "bilinear", **_BIOPTIMUS),
        input_size_px=224,
        img_size_multiple=14,
        embedding_dim=1536,
        precision="float16",
        magnification=20,
        patch_size_px=224,
    )


_H0_MINI = PatchEncoderSpec(
    name="h0-mini",
    builder=TIMM,
    architecture="vit_base_patch14_reg4_dinov2",
    arguments={
        "img_size": 224,
        "init_values": 1e-5,
        "num_classes": 0,
        "mlp_ratio": 5.33334,
        "reg_tokens": 4,
        "global_pool": "",
        "mlp_layer": "SwiGLUPacked",
        "act_layer": "SiLU",
        "dynamic_img_size": True,
    },
    pooling="cls",
    options=(return_type(1536),),
    repo_id="bioptimus/H0-mini",
    filenames=("model.safetensors", "pytorch_model.bin"),
    gated=True,
    licence="not stated",
    transform=TransformSpec(224, 224, "bicubic", **_BIOPTIMUS),
    input_size_px=224,
    img_size_multiple=14,
    embedding_dim=768,
    precision="float16",
    magnification=20,
    patch_size_px=224,
)

_GPFM = PatchEncoderSpec(
    name="gpfm",
    builder=TIMM,
    architecture="vit_large_patch14_dinov2",
    arguments={"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
    repo_id="majiabo/GPFM",
    filenames=("GPFM.pth",),
    licence="MIT",
    transform=TransformSpec(224, None, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
    input_size_px=224,
    img_size_multiple=14,
    embedding_dim=1024,
    precision="float16",
    magnification=20,
    patch_size_px=224,
)

_STAIN_STATS = PatchEncoderSpec(
    name="stain-stats",
    builder="trident.encoders.patch.stats:build",
    licence="none needed: no weights",
    transform=TransformSpec(),
    fixed_size_reason="it measures a patch at its own size",
    embedding_dim=64,
    precision="float32",
    magnification=20,
    patch_size_px=256,
)

DECLARATIONS: tuple[PatchEncoderSpec, ...] = (
    _RESNET50,
    _UNI_V1,
    _UNI_V2,
    _GIGAPATH,
    _kaiko("base", 8, 768),
    _kaiko("base", 16, 768),
    _kaiko("small", 8, 384),
    _kaiko("small", 16, 384),
    _KAIKO_VITL14,
    _LUNIT_VITS8,
    _virchow("virchow", "paige-ai/Virchow", "Apache-2.0"),
    _virchow("virchow2", "paige-ai/Virchow2", "CC-BY-NC-ND-4.0", reg_tokens=4),
    _h_optimus(0, "Apache-2.0"),
    _h_optimus(1, "not stated"),
    _H0_MINI,
    _GPFM,
    _STAIN_STATS,
)
"""The encoders of this module."""
