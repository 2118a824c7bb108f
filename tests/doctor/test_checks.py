"""Each check of the doctor, on what is well and on what is really broken."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.configuration import LuigiConfigParser
from packaging.requirements import Requirement

from trident.doctor import machine, models, packages, reading, services
from trident.doctor.check import ChildError, Verdict, ask_child
from trident.doctor.options import options_in_force


def _verdicts(findings: list[Any]) -> dict[str, str]:
    return {finding.name: finding.verdict.value for finding in findings}


# Children


def test_a_child_answers_in_json() -> None:
    assert ask_child("import json, sys; print('noise'); print(json.dumps(sys.argv[1:]))", "a", Path("b")) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", "crashes with signal 6"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("pass", "exit code 0"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_a_child_that_breaks_says_how(code: str, says: str) -> None:
    with pytest.raises(ChildError, match=says):
        ask_child(code, timeout_s=1 if "sleep" in code else 600)


# Packages


def test_this_interpreter_is_well() -> None:
    assert packages.interpreter()[0].verdict is Verdict.PASS


def test_another_version_than_the_tested_one_is_a_warning(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# tested\nnumpy==1.0.0  # old\nh5py==0.1 ; python_version < '3'\n")
    found = {finding.name: finding for finding in packages.packages("base", pins)}
    assert found["package numpy"].verdict is Verdict.WARN
    assert "tested with 1.0.0" in found["package numpy"].detail
    assert found["package numpy"].remedy == "pip install 'numpy==1.0.0'"
    assert "package h5py" not in found  # that pin is for another Python
    assert found["packages"].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("requirement", "extra", "verdict", "says"),
    [
        ("numpy>=1", "", None, ""),
        ("numpy>=999", "", Verdict.FAIL, "outside the range >=999"),
        ("no-such-package>=1", "", Verdict.FAIL, "not installed"),
        ("no-such-package>=1", "czi", Verdict.WARN, "needed for czi"),
    ],
)
def test_a_package_is_there_in_range_or_told(requirement: str, extra: str, verdict: Verdict | None, says: str) -> None:
    finding = packages._one(Requirement(requirement), extra, None)
    assert (finding.verdict if finding else None) is verdict
    assert finding is None or says in finding.detail
    assert finding is None or finding.remedy


def test_without_a_checkout_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    assert "no constraints.txt" in packages.packages("base", tmp_path / "none.txt")[0].detail


# Reading


def test_openslide_and_cucim_read_a_drawn_slide() -> None:
    verdicts = _verdicts(reading.readers("base"))
    assert verdicts["OpenSlide"] == "pass"
    assert verdicts["cuCIM"] in ("pass", "warn")


def test_a_library_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("cucim", "openslide"):
        (tmp_path / f"{name}.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).resolve().parents[2]}")
    found = {finding.name: finding for finding in reading.readers("base")}
    assert found["OpenSlide"].verdict is Verdict.FAIL
    assert "crashes with signal 6" in found["OpenSlide"].detail
    assert found["OpenSlide"].remedy


# The machine


@pytest.mark.parametrize(
    ("driver", "torch", "verdict", "says"),
    [
        (None, ["2.0", "13.0", []], Verdict.WARN, "no NVIDIA driver"),
        ("580.65.06", ["2.0", "13.0", ["NVIDIA H100"]], Verdict.PASS, "NVIDIA H100.*driver 580.65.06"),
        ("470.1", ["2.0", "13.0", []], Verdict.FAIL, "cannot use it"),
        ("580.1", ["2.0", None, []], Verdict.FAIL, "cannot use it"),
    ],
)
def test_driver_and_torch_together(
    driver: str | None, torch: list[Any], verdict: Verdict, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ask_child", lambda code: torch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if driver is not None:
        (tmp_path / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue\n")
    (finding,) = machine.gpus(tmp_path)
    assert finding.verdict is verdict
    assert re.search(says, finding.detail)


def test_hidden_gpus_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1  Tue\n")
    monkeypatch.setattr(machine, "ask_child", lambda code: ["2.0", "13.0", []])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus(tmp_path)[0].remedy == "unset CUDA_VISIBLE_DEVICES"


def test_torch_computes_here_or_says_why_not(tmp_path: Path) -> None:
    assert machine.gpus(tmp_path / "no driver")[0].verdict in (Verdict.WARN, Verdict.PASS)


def test_folders_that_are_to_come_are_asked_of_their_parents(tmp_path: Path) -> None:
    verdicts = _verdicts(machine.folders(tmp_path / "to" / "come", tmp_path))
    assert verdicts["job directory"] in ("pass", "warn")  # a warning where less than 10 GB are free
    assert not (tmp_path / "to").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = machine.folders(Path("/proc/job"), None)
    assert _verdicts(found)["job directory"] == "fail"


def test_a_runtime_folder_that_others_could_write_fails(runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runtime_folder / "trident").mkdir()
    (runtime_folder / "trident").chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder))
    assert _verdicts(machine.folders(None, None))["runtime folder"] == "fail"


# Services


@pytest.mark.parametrize(
    ("url", "verdict"),
    [(None, Verdict.PASS), ("http://127.0.0.1:1", Verdict.FAIL), ("nonsense", Verdict.FAIL)],
)
def test_a_luigid_that_is_named_must_answer(url: str | None, verdict: Verdict) -> None:
    assert services.luigid(url)[0].verdict is verdict


def test_a_real_luigid_answers(start_luigid: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    url, process = start_luigid()
    try:
        wait_until(lambda: services.luigid(url)[0].verdict is Verdict.PASS, process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>Directory listing</html>", "something else answers there"),
        (200, b'{"answer": 1}', "something else answers there"),
        (200, b"[" * 20_000, "something else answers there"),
        (404, b"", "no luigid: it answers HTTP 404"),
        (502, b"", "no luigid: it answers HTTP 502"),
        (407, b"", "no luigid: it answers HTTP 407"),
        (200, b'{"response": {"enabled": true}}', None),
    ],
)
def test_only_an_answer_of_luigid_itself_counts(status: int, body: bytes, says: str | None) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        (finding,) = services.luigid(f"http://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()
    assert finding.verdict is (Verdict.FAIL if says else Verdict.PASS)
    assert (says or "answers at") in finding.detail


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:hush@localhost:1", "http://[removed]@localhost:1: luigid does not answer"),
        ("http://me:hush@localhost:1/", "http://[removed]@localhost:1/: luigid does not answer"),
        ("http://me:hush@localhost", "http://[removed]@localhost: luigid does not answer"),
        ("http://me:hush@localhost:hush@/", "http://[removed]@/: no address"),
        ("http://:hush@localhost:1", "http://[removed]@localhost:1: luigid does not answer"),
        ("http://me:hush@[::1", "http://[removed]@[::1: no address"),
        ("http://me:hu@hush@localhost:1", "http://[removed]@localhost:1: luigid does not answer"),
        ("http://me:hush/hush@localhost:1", "http://[removed]@localhost:1: no address"),
        ("http://me:hush#hush@localhost:1", "http://[removed]@localhost:1: no address"),
        ("http://me:hush hush\nhush@localhost:1", "http://[removed]@localhost:1: "),
        ("me:hush@localhost:1", "[removed]@localhost:1: no address"),
        ("ftp://me:hush@localhost:1", "ftp://[removed]@localhost:1: no address"),
    ],
)
def test_a_password_in_an_address_is_not_shown(url: str, shown: str) -> None:
    (finding,) = services.luigid(url)
    assert finding.verdict is Verdict.FAIL
    assert finding.detail.startswith(shown)
    assert "hush" not in str(finding)
    assert "me:" not in str(finding)


def test_nor_is_one_of_a_unix_socket() -> None:
    (finding,) = services.luigid("http+unix://me:hush@%2Frun%2Fluigi")
    assert finding.verdict is Verdict.WARN
    assert finding.detail.startswith("http+unix://[removed]@%2Frun%2Fluigi: not asked")


@pytest.mark.parametrize(
    ("url", "are_known", "verdict", "says"),
    [
        (None, True, Verdict.PASS, "none is named"),
        (None, False, Verdict.WARN, "not asked: the options are wrong"),
        ("http://localhost:1", False, Verdict.FAIL, ": luigid does not answer"),
    ],
)
def test_where_the_options_are_wrong_none_may_be_said_to_be_named(
    url: str | None, are_known: bool, verdict: Verdict, says: str
) -> None:
    (finding,) = services.luigid(url, are_known=are_known)
    assert finding.verdict is verdict
    assert says in finding.detail


def test_the_luigi_command_may_have_a_luigid_of_its_own() -> None:
    found = services.luigid("http://localhost:1", "http://localhost:2")
    assert _verdicts(found) == {"luigid": "fail", "luigid of the luigi command": "fail"}
    assert len(services.luigid("http://localhost:1", "http://localhost:1")) == 1
    assert _verdicts(services.luigid(None, "http+unix://%2Frun%2Fluigi")) == {"luigid of the luigi command": "warn"}


# Options


@pytest.mark.parametrize(
    ("environment", "config", "given", "expected"),
    [
        ({}, "", {}, (None, None, None, None)),
        ({"SCHEDULER_URL": "http://e:1"}, "", {}, (None, None, "http://e:1", None)),
        ({"SCHEDULER_URL": "http://e:1"}, "", {"scheduler_url": "http://g:1"}, (None, None, "http://g:1", None)),
        ({"JOB_DIR": "out", "WSI_CACHE": "c"}, "", {}, (Path("out"), Path("c"), None, None)),
        ({"JOB_DIR": "out"}, "", {"job_dir": Path("mine")}, (Path("mine"), None, None, None)),
        ({}, "[trident]\nscheduler_url = http://c:1\njob_dir = out\n", {}, (Path("out"), None, "http://c:1", None)),
        ({}, "[core]\nscheduler_url = http://l:1\n", {}, (None, None, None, "http://l:1")),
        ({}, "[core]\ndefault-scheduler-url = http://l:%1\n", {}, (None, None, None, "http://l:%1")),
    ],
)
def test_options_come_from_where_a_run_takes_them(
    environment: dict[str, str],
    config: str,
    given: dict[str, Any],
    expected: tuple[Any, ...],
    clean_settings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"TRIDENT_{name}", value)
    (clean_settings / "luigi.cfg").write_text(config)
    found = options_in_force({"job_dir": None, "wsi_cache": None, "scheduler_url": None} | given)
    assert (found.job_dir, found.wsi_cache, found.scheduler_url, found.luigi_url) == expected
    assert found.findings == ()


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("scheduler_url = http://a:1", ""),
        ("scheduler_url = http://a:1", "scheduler_url = http://b:1"),
        ("scheduler_url = http://a:1", "default-scheduler-url = http://b:1"),
        ("default-scheduler-url = http://a:1", "scheduler_url = http://b:1"),
        ("default-scheduler-url = http://a:1\nscheduler_url = http://b:1", ""),
        ("scheduler-url = http://a:1\nscheduler_url = http://b:1", ""),
        ("scheduler_url = http://b:1\ndefault_scheduler_url = http://a:1", ""),
        ("default-scheduler-url = http://a:1", "default_scheduler_url = http://b:1"),
        ("scheduler_url = http://a:1", "scheduler_url ="),
        ("default-scheduler-url = http://a:1", "scheduler_url ="),
        ("scheduler_host = a", "scheduler_port = 1"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The configuration contains the parameter")
def test_the_luigi_command_takes_the_same_address(
    first: str, later: str, clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_settings / "luigi.cfg").write_text(f"[core]\n{first}\n")
    (clean_settings / "later.cfg").write_text(f"[core]\n{later}\n")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", "later.cfg")
    config = LuigiConfigParser()
    config.read(["luigi.cfg", "later.cfg"])
    monkeypatch.setattr(LuigiConfigParser, "_instance", config)
    assert options_in_force({}).luigi_url == (luigi.interface.core().scheduler_url or None)


@pytest.mark.parametrize(
    ("environment", "config", "says"),
    [
        ({"TRIDENT_MAG": "fast"}, "", "--mag fast"),
        ({"TRIDENT_SCHEDULERURL": "x"}, "", "did you mean 'scheduler_url'"),
        ({}, "no section\n", "luigi.cfg: not a readable configuration file"),
        ({}, "[trident]\nbogus = 1\n", "unknown option 'bogus'"),
    ],
)
def test_options_that_every_run_refuses_fail(
    environment: dict[str, str], config: str, says: str, clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (clean_settings / "luigi.cfg").write_text(config)
    found = options_in_force({"job_dir": Path("mine"), "wsi_cache": None, "scheduler_url": None})
    assert found.job_dir == Path("mine")
    (finding,) = found.findings
    assert finding.verdict is Verdict.FAIL
    assert says in finding.detail


@pytest.mark.parametrize(("needed", "verdict"), [(False, Verdict.PASS), (True, Verdict.WARN)])
def test_an_engine_that_is_not_there(
    needed: bool, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    (finding,) = services.docker(needed=needed)
    assert finding.verdict is verdict


# Weights


def test_weights_that_are_here_are_named_with_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "uni.bin"
    weights.write_bytes(b"weights")
    registry = tmp_path / "local.json"
    registry.write_text(f'{{"patch": {{"uni_v1": "{weights}"}}}}')
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", str(registry))
    found = {finding.name: finding for finding in models.weights("patch-encoders")}
    assert hashlib.sha256(b"weights").hexdigest()[:16] in found["weights patch/uni_v1"].detail
    assert found["weights patch/uni_v1"].verdict is Verdict.PASS
    weights.unlink()
    found = {finding.name: finding for finding in models.weights("patch-encoders")}
    assert found["weights patch/uni_v1"].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("absent", "says"),
    [
        (["a"], "1 model is not here yet (a); a run"),
        (["a", "b", "c"], "3 models are not here yet (a, b, c); a run"),
        (["a", "b", "c", "d"], "4 models are not here yet (a, b, c, …); a run"),
    ],
)
def test_models_that_are_not_here_are_counted(absent: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_models", lambda profile: dict.fromkeys(absent))
    monkeypatch.setattr(models, "locate", lambda source: None)
    (finding,) = models.weights("base")
    assert says in finding.detail


def test_access_to_gated_weights_needs_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = models.hub("patch-encoders", check_gated=True)
    assert _verdicts(found) == {"hub token": "pass", "gated weights": "warn"}
    assert "hf_secret" not in str(found)
