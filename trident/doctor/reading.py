"""Can slides be read here? A slide is drawn, and each library opens it in a process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trident.doctor.check import ChildError, Finding, ask_child, failed, passed, warned

_DRAW = """
import json, sys
from trident.demo import draw_demo_slide
draw_demo_slide(sys.argv[1], seed=1, width_px=1024, height_px=768)
print(json.dumps("drawn"))
"""
_READ = """
import hashlib, json, os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from trident.slides.registry import open_slide
with open_slide(sys.argv[1], reader_type=sys.argv[2], mpp=float(sys.argv[3]) if len(sys.argv) > 3 else None) as slide:
    region = slide.read_region((128, 128), 0, (512, 512))
    print(json.dumps([list(slide.dimensions), hashlib.sha256(region.tobytes()).hexdigest()]))
"""
_VIPS = """
import json, sys
import pyvips
image = pyvips.Image.new_from_file(sys.argv[1])
print(json.dumps([image.width, image.height, ".".join(str(pyvips.version(part)) for part in range(3))]))
"""
_IMPORT = """
import importlib, json, sys
print(json.dumps(getattr(importlib.import_module(sys.argv[1]), "__version__", "installed")))
"""


def readers(profile: str) -> list[Finding]:
    """OpenSlide and cuCIM on a drawn slide, and the libraries of other formats.

    Args:
        profile: `convert` and `full` also need libvips.
    """
    with tempfile.TemporaryDirectory(prefix="trident-doctor-") as folder:
        path = Path(folder) / "drawn.svs"
        try:
            ask_child(_DRAW, path)
        except ChildError as error:
            return [failed("slide", f"a test slide cannot be drawn: {error}", "make setup")]
        findings = [*_openslide_and_cucim(path)]
        if profile in ("convert", "full"):
            findings.append(_libvips(path))
    for module, extra in (("zarr", "omezarr"), ("pylibCZIrw", "czi")):
        findings += _optional(module, extra) if profile == "full" else []
    return findings


def _openslide_and_cucim(path: Path) -> list[Finding]:
    try:
        size, pixels = ask_child(_READ, path, "openslide")
    except ChildError as error:
        return [
            failed("OpenSlide", f"does not read a drawn slide: {error}", "pip install openslide-python openslide-bin")
        ]
    findings = [passed("OpenSlide", f"reads a drawn slide of {size[0]} × {size[1]} px")]
    try:
        _, same = ask_child(_READ, path, "cucim")
    except ChildError as error:
        remedy = "pip install cucim-cu13 (Linux, Python 3.11 or newer)"
        findings.append(warned("cuCIM", f"not usable, OpenSlide reads everything instead, slower: {error}", remedy))
    else:
        if same == pixels:
            findings.append(passed("cuCIM", "reads the same pixels as OpenSlide"))
        else:
            findings.append(failed("cuCIM", "reads other pixels than OpenSlide", "run with --reader_type openslide"))
    return findings


def _libvips(path: Path) -> Finding:
    try:
        width_px, height_px, version = ask_child(_VIPS, path)
    except ChildError as error:
        return failed("libvips", f"not usable: {error}", "pip install 'trident-luigi[convert]'")
    return passed("libvips", f"{version}, reads a drawn slide of {width_px} × {height_px} px")


def _optional(module: str, extra: str) -> list[Finding]:
    try:
        version = ask_child(_IMPORT, module)
    except ChildError as error:
        return [warned(module, f"not usable: {error}", f"pip install 'trident-luigi[{extra}]'")]
    return [passed(module, str(version))]
