"""Interpreter and packages: are they there, in a version that the project works with?"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from trident.doctor.check import Finding, failed, passed, warned

DISTRIBUTION = "trident-luigi"
OLDEST, NEWEST = (3, 10), (3, 13)
EXTRAS_OF_PROFILE = {
    "base": (),
    "patch-encoders": (),
    "slide-encoders": (),
    "convert": ("convert",),
    "full": ("convert", "omezarr", "czi", "export"),
}
"""Extras of the package whose absence is worth a line."""


def interpreter() -> list[Finding]:
    """The running Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return [passed("python", f"{version} ({sys.executable})")]
    return [failed("python", f"{version} is not between 3.10 and 3.13", "make setup PYTHON=/path/to/python3.11")]


def packages(profile: str, pins_path: Path | None = None) -> list[Finding]:
    """Each package that the project needs; one line for all that are well, one for each that is not.

    Args:
        profile: key of `EXTRAS_OF_PROFILE`.
        pins_path: file with the tested versions; by default that of the checkout, if this is one.
    """
    try:
        declared = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return [failed("packages", f"{DISTRIBUTION} itself is not installed", "make setup")]
    pins = _pins(pins_path or Path(__file__).resolve().parents[2] / "constraints.txt")
    findings: list[Finding] = []
    well = 0
    for requirement in declared:
        extra = _extra(requirement, EXTRAS_OF_PROFILE[profile])
        if extra is None:
            continue
        finding = _one(requirement, extra, pins.get(_key(requirement.name)))
        if finding is None:
            well += 1
        else:
            findings.append(finding)
    tested = "the tested versions" if pins else "versions in range (no constraints.txt here to compare with)"
    return [passed("packages", f"{well} packages in {tested}"), *findings]


def _extra(requirement: Requirement, extras: tuple[str, ...]) -> str | None:
    """The extra that brings the requirement here, "" for none, None where it does not apply."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return ""
    return next((extra for extra in extras if requirement.marker.evaluate({"extra": extra})), None)


def _one(requirement: Requirement, extra: str, pin: str | None) -> Finding | None:
    name = f"package {requirement.name}"
    bad = warned if extra else failed
    remedy = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else "make setup"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return bad(name, "not installed" + (f" (needed for {extra})" if extra else ""), remedy)
    if not requirement.specifier.contains(found, prereleases=True):
        return bad(name, f"{found} is outside the range {requirement.specifier}", remedy)
    if pin is not None and Version(found) != Version(pin):
        return warned(name, f"{found}; tested with {pin}", f"pip install '{requirement.name}=={pin}'")
    return None


def _pins(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if "==" not in text:
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[_key(requirement.name)] = next(iter(requirement.specifier)).version
    return pins


def _key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
