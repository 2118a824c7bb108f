"""`trident doctor`: its report, its exit code, and that nothing stops it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.commands import doctor
from trident.doctor.check import Finding, Verdict, failed, passed, warned


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function (*findings or errors): what the doctor's checks give."""

    def give(*outcomes: Any) -> None:
        def make(outcome: Any) -> Callable[[], list[Finding]]:
            def check() -> list[Finding]:
                if isinstance(outcome, Exception):
                    raise outcome
                return [outcome]

            return check

        monkeypatch.setattr(doctor, "_checks", lambda given: {f"c{n}": make(one) for n, one in enumerate(outcomes)})

    return give


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([passed("a", "well")], 0),
        ([passed("a", "well"), warned("b", "absent", "install it")], 0),
        ([failed("a", "broken", "mend it"), passed("b", "well")], 1),
        ([RuntimeError("the library is odd"), passed("b", "well")], 1),
    ],
)
def test_the_exit_code_is_1_where_something_failed(
    outcomes: list[Any], code: int, checks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    checks(*outcomes)
    assert doctor.run(["--format", "json"]) == code
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == len(outcomes)
    assert all(entry.keys() == {"name", "status", "detail", "remedy"} for entry in entries)


def test_a_check_that_breaks_is_a_line(checks: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    checks(RuntimeError("the library is odd"), warned("b", "absent", "install it"))
    assert doctor.run([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "fail  c0: the check itself broke: RuntimeError: the library is odd",
        "warn  b: absent",
        "      mend it: install it",
    ]


@pytest.mark.parametrize("profile", doctor.PROFILES)
def test_every_profile_runs_here(profile: str, run_program: Callable[..., Any], tmp_path: Path) -> None:
    if profile != "full":  # the others are parts of it
        assert doctor._checks(_given(profile)).keys() >= {"python", "packages", "readers"}
        return
    done = run_program(
        *("trident", "doctor", "--profile", profile, "--format", "json", "--job_dir", tmp_path / "job"),
        env={"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret"},
    )
    entries = json.loads(done.out)
    bad = [entry for entry in entries if entry["status"] == Verdict.FAIL.value]
    assert (done.code, bad) == (0, [])
    assert "hf_secret" not in done.out + done.err
    assert not (tmp_path / "job").exists()


def test_what_is_not_given_is_taken_from_where_a_run_takes_it(
    quiet_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    every = doctor._checks
    monkeypatch.setattr(
        doctor, "_checks", lambda given: {key: every(given)[key] for key in ("options", "folders", "luigid")}
    )
    monkeypatch.setenv("TRIDENT_SCHEDULER_URL", "http://localhost:1")
    monkeypatch.setenv("TRIDENT_JOB_DIR", str(tmp_path / "job"))
    assert doctor.run([]) == 1
    out = capsys.readouterr().out
    assert "fail  luigid: http://localhost:1: luigid does not answer" in out
    assert f"job directory: {tmp_path / 'job'}: " in out
    monkeypatch.setenv("TRIDENT_MAG", "fast")
    assert doctor.run([]) == 1
    out = capsys.readouterr().out
    assert "fail  options: --mag fast" in out
    assert "warn  luigid: not asked: the options are wrong" in out


def _given(profile: str) -> Any:
    import argparse

    return argparse.Namespace(profile=profile, job_dir=None, wsi_cache=None, scheduler_url=None, check_gated=False)
