"""Examples at the end of each command's `--help`. A test parses every one of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "batch": (
        "trident batch --wsi_dir wsis --job_dir out --task all --segmenter otsu --patch_encoder uni_v1 --mag 20 "
        "--patch_size 256",
        "trident batch --wsi_dir wsis --job_dir out --task all --slide_encoder titan --gpus 0 1 --skip_errors",
        "trident batch --wsi_dir wsis --job_dir out --task coords --segmenter otsu --target_mpp 0.5 --dry_run",
    ),
    "single": (
        "trident single --slide_path a.svs --job_dir out --patch_encoder uni_v1 --mag 20 --patch_size 256",
        "trident single --slide_path a.svs --job_dir out --segmenter otsu --patch_encoder stain-stats --gpus -1",
    ),
    "pool": (
        "trident pool --job_dir out --slide_encoder titan --patients patients.csv",
        "trident pool --job_dir out --slide_encoder mean-uni_v1 --patients patients.csv --mag 20 --patch_size 256 "
        "--pooling early",
    ),
    "report": (
        "trident report out",
        "trident report out --output cohort.html",
    ),
    "view": (
        "trident view out a.svs",
        "trident view out a --patch_encoder uni_v1 --component 1 --cmap magma",
        "trident view out a --scores attention.csv --column attention --output a.png",
    ),
    "similar": (
        "trident similar out a --patch 12000 8400",
        "trident similar out a --index 17 42 --top 25 --other_slides --patch_encoder uni_v1",
    ),
    "export": (
        "trident export out --format h5ad --output exported --patch_encoder uni_v1",
        "trident export out --format parquet --output exported --slide_encoder titan",
    ),
    "plan": (
        "trident plan --wsi_dir wsis --job_dir out --task all --patch_encoder uni_v1 --mag 20 --patch_size 256",
        "trident plan --wsi_dir wsis --job_dir out --task all --gpus 0 1 --records earlier_job --format json",
        "trident plan --wsi_dir wsis --job_dir out --task all --calibrate",
    ),
    "explain": (
        "trident explain a --job_dir out",
        "trident explain a.svs --job_dir out --wsi_dir wsis --task all --patch_encoder uni_v1 --mag 20 "
        "--patch_size 256",
    ),
    "info": (
        "trident info a.svs",
        "trident info wsis/*.svs --json",
        "trident info scan.tiff --mpp 0.25",
    ),
    "encoders": (
        "trident encoders",
        "trident encoders --kind slide --format json",
    ),
    "weights": (
        "trident weights list",
        "trident weights fetch uni_v1 slide/titan --to weights",
        "trident weights check uni_v1",
    ),
    "convert": (
        "trident convert --input_dir scans --job_dir tiffs --num_workers 4",
        "trident convert --input_dir photos --job_dir tiffs --wsi_ext .png --mpp_csv mpp.csv",
        "trident convert --input_dir scans --job_dir tiffs --then_process -- --task all --mag 20",
    ),
    "doctor": (
        "trident doctor",
        "trident doctor --profile full --job_dir /shared/out --format json",
        "trident doctor --profile patch-encoders --check-gated",
    ),
    "completion": (
        "trident completion bash > ~/.local/share/bash-completion/completions/trident",
        "trident completion zsh > ~/.zfunc/_trident",
    ),
}
"""Command → lines as a user would type them."""


def examples_of(program: str) -> str:
    """The examples of a program such as `trident info`, as the end of its help; empty where it has none."""
    lines = EXAMPLES.get(program.removeprefix("trident "), ())
    return "examples:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
