"""What a run would take from the environment and `luigi.cfg`, where the doctor is not told otherwise."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trident.doctor.check import Finding, failed
from trident.errors import SettingsError
from trident.settings import load_settings, luigi_config_paths

_LUIGI_SECTION = "core"
_LUIGI_KEYS = ("scheduler_url", "scheduler-url", "default_scheduler_url", "default-scheduler-url")
"""In the order in which Luigi looks for them, in all of its files together."""


@dataclass(frozen=True)
class InForce:
    """Options that the doctor looks at.

    Attributes:
        job_dir: job directory; None where none is named.
        wsi_cache: folder for copies of slides.
        scheduler_url: of `trident batch` and its like.
        luigi_url: of the `luigi` command, which has a configuration of its own.
        findings: what is wrong with the options; of those that cannot be read the named ones are in force.
    """

    job_dir: Path | None
    wsi_cache: Path | None
    scheduler_url: str | None
    luigi_url: str | None
    findings: tuple[Finding, ...] = ()


def options_in_force(given: Mapping[str, Any]) -> InForce:
    """The options of a run that is started here and now.

    Args:
        given: those that the user named; None: not named.
    """
    named = {name: value for name, value in given.items() if value is not None}
    try:
        url = _luigi_url()
        try:
            settings = load_settings(**named)
            job_dir: Path | None = settings.job_dir
        except SettingsError:
            if "job_dir" in named:
                raise
            settings, job_dir = load_settings(**named, job_dir=Path()), None  # it may be all that is missing
    except SettingsError as error:
        remedy = "correct the environment (TRIDENT_*) or luigi.cfg: every run refuses this"
        fallback = {name: named.get(name) for name in ("job_dir", "wsi_cache", "scheduler_url")}
        return InForce(**fallback, luigi_url=None, findings=(failed("options", str(error), remedy),))
    return InForce(job_dir, settings.wsi_cache, settings.scheduler_url, url)


def _luigi_url() -> str | None:
    """The address in `[core]` of the files that Luigi reads: the first key that any has, of which later files win."""
    parser = configparser.ConfigParser(interpolation=None)
    for path in luigi_config_paths():
        # What cannot be parsed the settings refuse, which are read from the same files.
        with suppress(configparser.Error, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
    for key in _LUIGI_KEYS:
        if parser.has_option(_LUIGI_SECTION, key):
            return parser.get(_LUIGI_SECTION, key).strip() or None
    return None
