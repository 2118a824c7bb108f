"""The patch encoders whose architecture is this package's own. Nothing heavy is imported here."""

from __future__ import annotations

from trident.encoders.patch.spec import Colour, Option, PatchEncoderSpec, TransformSpec

_HERE = "trident.encoders.patch.models"
_IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
_IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
_CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)
_HALF: Colour = (0.5, 0.5, 0.5)

_CONCH_V1 = PatchEncoderSpec(
    name="conch_v1",
    builder=f"{_HERE}.conch:build_v1",
    options=(Option("with_proj", (False, True)), Option("normalize", (False, True))),
    # proj_contrast is unused too, unless it is asked for. The decoder is not published, but named in some copies.
    unused_weights=("text.", "text_decoder.", "logit_scale", "visual.attn_pool_caption.", "visual.ln_caption."),
    repo_id="MahmoodLab/CONCH",
    filenames=("pytorch_model.bin",),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
    transform=TransformSpec(448, 448, "bicubic", _CLIP_MEAN, _CLIP_STD),
    input_size_px=448,
    fixed_size_reason="it was made for 448 px",
    embedding_dim=512,
    precision="float32",
    magnification=20,
    patch_size_px=512,
)

_CONCH_V15 = PatchEncoderSpec(
    name="conch_v15",
    builder=f"{_HERE}.conch:build_v15",
    repo_id="MahmoodLab/conchv1_5",
    filenames=("pytorch_model_vision.bin",),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
    transform=TransformSpec(448, 448, "bilinear", _IMAGENET_MEAN, _IMAGENET_STD),
    input_size_px=448,
    img_size_multiple=16,
    embedding_dim=768,
    precision="float16",
    magnification=20,
    patch_size_px=512,
)

_CTRANSPATH = PatchEncoderSpec(
    name="ctranspath",
    builder=f"{_HERE}.ctranspath:build",
    repo_id="datasets/MahmoodLab/hest-bench",
    filenames=("fm_v1/ctranspath/CHIEF_CTransPath.pth",),
    gated=True,
    licence="GPLv3, non-commercial academic use",
    transform=TransformSpec(224, None, "bilinear", _IMAGENET_MEAN, _IMAGENET_STD),
    input_size_px=224,
    fixed_size_reason="its windows of attention are laid out for 224 px",
    embedding_dim=768,
    precision="float32",
    magnification=10,
    patch_size_px=256,
)

_MUSK = PatchEncoderSpec(
    name="musk",
    builder=f"{_HERE}.musk:build",
    options=(Option("with_proj", (False, True)), Option("inference_aug", (False, True), {True: 2048})),
    # vision_head is unused too, unless it is asked for; so are all experts for text.
    unused_weights=("beit3.text_embed.", "beit3.vision_embed.mask_token", "language_head.", "logit_scale"),
    repo_id="xiangjx/musk",
    filenames=("model.safetensors",),
    gated=True,
    licence="CC-BY-NC-ND-4.0",
    transform=TransformSpec(384, 384, "bicubic", _HALF, _HALF),
    input_size_px=384,
    fixed_size_reason="its position table is made for 384 px",
    embedding_dim=1024,
    precision="float16",
    magnification=20,
    patch_size_px=384,
)

_GENBIO = PatchEncoderSpec(
    name="genbio-pathfm",
    builder=f"{_HERE}.genbio:build",
    repo_id="genbio-ai/genbio-pathfm",
    filenames=("model.pth",),
    licence="GenBio AI Community License",
    transform=TransformSpec(224, None, "bilinear", (0.697, 0.575, 0.728), (0.188, 0.240, 0.187)),
    input_size_px=224,
    fixed_size_reason="it was made for 224 px",
    embedding_dim=4608,
    precision="bfloat16",
    magnification=20,
    patch_size_px=224,
)


def _gemma4(name: str, repo_id: str, arguments: dict[str, int | bool]) -> PatchEncoderSpec:
    """One of the two vision towers, which differ in size and in what keeps their values bounded."""
    return PatchEncoderSpec(
        name=name,
        builder=f"{_HERE}.gemma4:build",
        arguments=arguments,
        needed_weights=("model.vision_tower.",),
        repo_id=repo_id,
        filenames=("model.safetensors", "model.safetensors.index.json"),
        licence="not stated",
        transform=TransformSpec(768, None, "bicubic", keep_aspect=False),
        transform_builder=f"{_HERE}.gemma4:build_transform",
        input_size_px=768,
        fixed_size_reason="its processor enlarges every patch to 768 px",
        embedding_dim=arguments["hidden_size"],
        precision="bfloat16",
        magnification=20,
        patch_size_px=224,
    )


DECLARATIONS: tuple[PatchEncoderSpec, ...] = (
    _CONCH_V1,
    _CONCH_V15,
    _CTRANSPATH,
    _MUSK,
    _GENBIO,
    _gemma4(
        "gemma4-e4b",
        "google/gemma-4-E4B",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 16,
            "num_attention_heads": 12,
            "use_clipped_linears": True,
            "standardize": False,
        },
    ),
    _gemma4(
        "gemma4-26b",
        "google/gemma-4-26B-A4B",
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "use_clipped_linears": False,
            "standardize": True,
        },
    ),
)
"""Encoders of this package, for the registry."""
