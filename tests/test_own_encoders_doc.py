"""docs/own-encoders.md: its files, commands and programs are tried as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trident.demo import draw_demo_slide
from trident.demo.__main__ import main as demo
from trident.encoders.patch import plugins
from trident.store import h5

PAGE = Path(__file__).parents[1] / "docs" / "own-encoders.md"
GRID = Path("job", "20x_256px_0px_overlap")
_SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(clean_settings: Path) -> Path:
    """Where the reader stands, with a slide that is smaller than the page's."""
    draw_demo_slide(clean_settings / "slides" / "demo.svs", width_px=1024, height_px=768, mpp=0.5)
    return clean_settings


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package, as pip leaves it: its module, and metadata with the entry points of its pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML by itself")
    site = folder / "site"
    declared = tomllib.loads(_of("toml")[0])
    (module,) = declared["tool"]["setuptools"]["py-modules"]
    project = declared["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(_of("python")[1])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())
        for group, found in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(site)
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    sys.modules.pop(module, None)


def _of(language: str) -> list[str]:
    return [text for kind, text in _SNIPPETS if kind == language]


def _batch(run_batch: Callable[..., Any], line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert (program, command) == ("trident", "batch")
    done = run_batch(*arguments)
    assert done.code == 0, done.err


def _features(encoder: str) -> np.ndarray:
    features = h5.read_features(GRID / f"features_{encoder}" / "demo.h5").features
    assert len(features) > 3
    return features


def test_every_snippet_is_tried() -> None:
    assert [kind for kind, _ in _SNIPPETS] == ["bash", "python", "toml", "python", "bash", "bash", "python"]


def test_slide_of_the_examples(clean_settings: Path) -> None:
    program, option, module, *arguments = shlex.split(_of("bash")[0])
    assert (program, option, module) == ("python", "-m", "trident.demo")
    assert demo(arguments) == 0
    assert Path("slides/demo.svs").is_file()


def test_in_python_and_from_timm(folder: Path, run_batch: Callable[..., Any]) -> None:
    import timm
    from safetensors.torch import save_file

    names: dict[str, Any] = {}
    exec(compile(_of("python")[0], str(PAGE), "exec"), names)
    own = _features("my-model")
    assert own.shape[1] == 16

    save_file(timm.create_model("resnet18").state_dict(), "resnet18.safetensors")
    exec(compile(_of("python")[2], str(PAGE), "exec"), names)
    timms = _features("timm_resnet18.a1_in1k")
    assert timms.shape == (len(own), 512)
    written = GRID / "features_timm_resnet18.a1_in1k" / "demo.h5"
    before = written.stat().st_mtime_ns
    _batch(run_batch, _of("bash")[2])  # the same features: they are found done
    assert written.stat().st_mtime_ns == before
    written.unlink()
    _batch(run_batch, _of("bash")[2])
    # A GPU, where there is one, computes the second.
    assert np.allclose(_features("timm_resnet18.a1_in1k"), timms, rtol=0.01, atol=0.01)


def test_in_a_package(folder: Path, package: None, run_batch: Callable[..., Any]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 16, 16))
    nn.init.zeros_(network[0].weight)
    nn.init.constant_(network[0].bias, 2.0)
    torch.save(network.state_dict(), "lab-small.pt")
    _batch(run_batch, _of("bash")[1])
    features = _features("lab-small")
    assert features.shape[1] == 16
    # The file's weights were used: without their convolution only the bias is left.
    assert features == pytest.approx(nn.functional.gelu(torch.tensor(2.0)).item(), abs=1e-5)
