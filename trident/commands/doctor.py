"""`trident doctor`: what works on this machine, what does not, and what mends it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trident.commands.options import OptionParser
from trident.doctor.check import Check, Finding, Verdict, failed

PROFILES = ("base", "patch-encoders", "slide-encoders", "convert", "full")
NOT_WELL = 1
"""Exit code where something failed."""
_DEFAULT = "default: as a run would, from the environment or luigi.cfg"


def run(arguments: list[str]) -> int:
    """Check and report. Returns 1 where a check failed, else 0."""
    parser = OptionParser(
        prog="trident doctor",
        description=__doc__,
        epilog="Exit code 1 where a check failed; warnings are for what not every run needs.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", choices=PROFILES, default="base", help="how much is looked at (default: base)")
    parser.add_argument("--check-gated", action="store_true", help="ask the hub about each gated model")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument("--job_dir", type=Path, help=f"a job directory that is to be written; {_DEFAULT}")
    parser.add_argument("--wsi_cache", type=Path, help=f"a folder for copies of slides; {_DEFAULT}")
    parser.add_argument("--scheduler_url", help=f"a luigid that runs are to use; {_DEFAULT}")
    given = parser.parse_args(arguments)
    findings = []
    for name, check in _checks(given).items():
        for finding in _guarded(name, check):
            findings.append(finding)
            if given.format == "text":
                sys.stdout.write(_line(finding))
                sys.stdout.flush()
    if given.format == "json":
        sys.stdout.write(json.dumps([_fields(finding) for finding in findings], indent=2) + "\n")
    return NOT_WELL if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def _checks(given: argparse.Namespace) -> dict[str, Check]:
    from trident.doctor import machine, models, packages, reading, services
    from trident.doctor.options import options_in_force

    profile = given.profile
    named = {name: getattr(given, name) for name in ("job_dir", "wsi_cache", "scheduler_url")}
    options = options_in_force(named)
    return {
        "options": lambda: list(options.findings),
        "python": packages.interpreter,
        "packages": partial(packages.packages, profile),
        "readers": partial(reading.readers, profile),
        "GPU": machine.gpus,
        "memory": machine.memory,
        "folders": partial(machine.folders, options.job_dir, options.wsi_cache),
        "luigid": partial(services.luigid, options.scheduler_url, options.luigi_url, are_known=not options.findings),
        "Docker": partial(services.docker, needed=profile == "full"),
        "weights": partial(models.weights, profile),
        "hub": partial(models.hub, profile, check_gated=given.check_gated),
    }


def _guarded(name: str, check: Check) -> Iterator[Finding]:
    """A check that breaks is a finding of its own: what it met may be the very thing that is wrong."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a doctor does not die of the patient's disease
        yield failed(name, f"the check itself broke: {type(error).__name__}: {error}")


def _line(finding: Finding) -> str:
    mends = f"\n      mend it: {finding.remedy}" if finding.remedy else ""
    return f"{finding.verdict.value:4}  {finding.name}: {finding.detail}{mends}\n"


def _fields(finding: Finding) -> dict[str, str | None]:
    return {
        "name": finding.name,
        "status": finding.verdict.value,
        "detail": finding.detail,
        "remedy": finding.remedy,
    }
