"""`make`'s run targets name real encoders at the magnification and patch size that these were made for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from trident.encoders.patch.registry import PATCH_ENCODER_NAMES, SPECS
from trident.encoders.slide.registry import SLIDE_ENCODER_NAMES, required_patch_encoder

ROOT = Path(__file__).resolve().parents[1]
OURS = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "WSI_DIR", "JOB_DIR", "GPUS", "SEGMENTER", "TASK", "PYTHON")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make without what an outer `make test` hands down."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.run(
        ["make", "-C", str(ROOT), *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def run_targets() -> list[str]:
    """Targets that have a `RUN_<name>` line."""
    return re.findall(r"^RUN_([\w-]+) +:=", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def options_of(target: str, *variables: str) -> dict[str, str]:
    """Options of the luigi command that a target would run."""
    printed = make("--dry-run", target, *variables)
    assert printed.returncode == 0, printed.stderr
    command = printed.stdout[printed.stdout.index(".venv/bin/luigi") :].replace("\\\n", " ")
    options: dict[str, str] = {}
    words = iter(shlex.split(command.splitlines()[0]))
    for word in words:
        if word.startswith("--") and word != "--local-scheduler":
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = value if equals else next(words)
    return options


@pytest.mark.parametrize("target", run_targets())
def test_encoder_magnification_and_patch_size(target: str) -> None:
    options = options_of(target, "WSI_DIR=/slides")
    if "slide-encoder" in options:
        assert options["slide-encoder"] in SLIDE_ENCODER_NAMES
        patch_encoder = required_patch_encoder(options["slide-encoder"])
    else:
        patch_encoder = options["patch-encoder"]
    assert patch_encoder in PATCH_ENCODER_NAMES
    if patch_encoder in SPECS:
        spec = SPECS[patch_encoder]
        assert (float(options["mag"]), int(options["patch-size"])) == (spec.magnification, spec.patch_size_px)


@pytest.mark.parametrize(
    ("target", "mag", "patch_size"),
    [
        ("conch15", "20", "512"),
        ("virchow2", "20", "224"),
        ("titan", "20", "512"),
        ("prism", "20", "224"),
        ("chief", "10", "256"),
        ("gigapath-slide", "20", "256"),
    ],
)
def test_published_grids(target: str, mag: str, patch_size: str) -> None:
    options = options_of(target, "WSI_DIR=/slides")
    assert (options["mag"], options["patch-size"]) == (mag, patch_size)


def test_variables_reach_the_command() -> None:
    options = options_of("uni", "WSI_DIR=/my slides", "JOB_DIR=/out", "GPUS=0 1", "SEGMENTER=hest", "TASK=feat")
    assert options["wsi-dir"] == "/my slides"
    assert (options["job-dir"], options["gpus"], options["segmenter"], options["task"]) == (
        "/out",
        "0 1",
        "hest",
        "feat",
    )


def test_missing_wsi_dir_is_explained() -> None:
    refused = make("uni")
    assert refused.returncode == 2
    assert "WSI_DIR, the folder with the slides, is not set" in refused.stderr
    assert "make uni WSI_DIR=" in refused.stderr
    assert "luigi" not in refused.stdout


def test_help_is_the_default_and_lists_every_target() -> None:
    shown = make()
    assert shown.returncode == 0
    listed = re.findall(r"^  make ([\w-]+)", shown.stdout, flags=re.MULTILINE)
    assert set(run_targets()) | {"setup", "lint", "test", "demo", "bench", "help"} <= set(listed)
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    names = re.search(r"^RUNS := (.*)", text, flags=re.MULTILINE)
    assert names is not None
    assert sorted(names[1].split()) == sorted(run_targets()), "every RUN_ line has its target"
