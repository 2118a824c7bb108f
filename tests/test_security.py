"""What `docs/security.md` promises about code that runs, sockets, secrets, files and links."""

from __future__ import annotations

import ast
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from trident.errors import StoreError
from trident.store import logs
from trident.store.atomic import write_text
from trident.store.guards import file_guard
from trident.store.summary import RunSection, append_summary

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for package in ("trident", "luigi_tasks") for path in (ROOT / package).rglob("*.py"))
PAGE = ROOT / "docs" / "security.md"

# Code that runs

FORBIDDEN = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"), "runs text"),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "marshal.load"), "unpickles"),
    **dict.fromkeys(("shelve.open", "joblib.load", "dill.load", "dill.loads", "pandas.read_pickle"), "unpickles"),
    **dict.fromkeys(
        ("cloudpickle.load", "cloudpickle.loads", "torch.jit.load", "torch.hub.load"), "runs a file's code"
    ),
    **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "yaml.full_load"), "makes any object"),
    **dict.fromkeys(("shutil.unpack_archive", "numpy.fromregex"), "writes where an archive says"),
}
FORBIDDEN_METHODS = {"extractall": "writes where an archive says", "read_pickle": "unpickles"}


def faults_in(source: str) -> list[str]:
    """Calls that could run what a file or a user's text says."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return [fault for node in ast.walk(tree) if isinstance(node, ast.Call) for fault in faults_of(node, names)]


def faults_of(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    dotted = full_name(call.func, names)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if dotted in FORBIDDEN:
        yield f"line {call.lineno}: {dotted} {FORBIDDEN[dotted]}"
    if isinstance(call.func, ast.Attribute) and call.func.attr in FORBIDDEN_METHODS:
        yield f"line {call.lineno}: {call.func.attr} {FORBIDDEN_METHODS[call.func.attr]}"
    if dotted == "torch.load" and not is_constant(keywords.get("weights_only"), True):
        yield f"line {call.lineno}: torch.load without weights_only=True"
    if "allow_pickle" in keywords and not is_constant(keywords["allow_pickle"], False):
        yield f"line {call.lineno}: allow_pickle"
    if "shell" in keywords and not is_constant(keywords["shell"], False):
        yield f"line {call.lineno}: a shell"
    if is_constant(keywords.get("autoescape"), False):
        yield f"line {call.lineno}: templates that do not escape"


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return {"np": "numpy", "pd": "pandas"}.get(node.id, names.get(node.id, node.id))
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, names)}.{node.attr}"
    return "?"


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path: Path) -> None:
    assert faults_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "is_fault"),
    [
        ("import pickle\npickle.load(file)", True),
        ("import pickle as p\np.loads(data)", True),
        ("from pickle import load\nload(file)", True),
        ("import torch\ntorch.load(path)", True),
        ("import torch\ntorch.load(path, weights_only=False)", True),
        ("import torch\ntorch.load(path, weights_only=flag)", True),
        ("import torch\ntorch.load(path, weights_only=True)", False),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", True),
        ("import numpy as np\nnp.load(path)", False),
        ("eval(text)", True),
        ("model.eval()", False),
        ("import re\nre.compile(text)", False),
        ("import yaml\nyaml.load(text)", True),
        ("import yaml\nyaml.safe_load(text)", False),
        ("import subprocess\nsubprocess.run(text, shell=True)", True),
        ("import subprocess\nsubprocess.run([program])", False),
        ("import tarfile\ntarfile.open(path).extractall()", True),
        ("from os import system\nsystem(text)", True),
    ],
)
def test_the_check_of_sources_finds_what_it_looks_for(source: str, is_fault: bool) -> None:
    assert bool(faults_in(source)) == is_fault


def test_remote_code_is_asked_for_only_where_the_flag_was_checked() -> None:
    asking = []
    for path in SOURCES:
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        flags = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "trust_remote_code"]
        asking += [str(path.relative_to(ROOT)) for flag in flags if is_constant(flag, True)]
    assert asking == ["trident/encoders/slide/care.py"]
    source = (ROOT / asking[0]).read_text("utf-8")
    assert source.index("check_trusted(spec, trust_remote_code") < source.index("trust_remote_code=True, local_files")


# Addresses and sockets


def test_luigid_is_never_started_on_every_address() -> None:
    places = [ROOT / "README.md", ROOT / "Makefile", ROOT / "luigi.cfg"]
    places += [path for name in ("docs", "scripts", "containers", "tutorials") for path in (ROOT / name).rglob("*")]
    starts = []
    for path in places:
        if path.is_file() and path.suffix not in {".py", ".png", ".jpg", ".pyc", ".ipynb"}:
            text = path.read_text(encoding="utf-8")
            starts += [(path, line) for line in text.splitlines() if re.search(r"\bluigid\s+(--|-[a-z]\b)", line)]
    assert starts
    for path, line in starts:
        found = re.search(r'--address[ =]"?([^\s"]+)|--unix-socket', line)
        assert found, f"{path}: luigid would listen on every address: {line}"
        assert found[1] not in {"0.0.0.0", "::", "*"}, line
        if path.parent in (ROOT, ROOT / "containers"):
            assert found[1] in {None, "127.0.0.1", "localhost"}, line


def test_the_socket_of_an_executor_is_its_users_alone(runtime_folder: Path, wait_until: Callable[..., None]) -> None:
    path = runtime_folder / "s"
    command = [sys.executable, "-m", "trident.executors.server", "--socket", str(path), "--device-index", "-1"]
    before = os.umask(0)
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    finally:
        os.umask(before)
    try:
        wait_until(path.exists, process)
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_folder_for_sockets_that_others_reach_is_refused(
    runtime_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    from trident.errors import ExecutorError
    from trident.executors.runtime_dir import runtime_dir

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder))
    assert runtime_dir().is_relative_to(runtime_folder)
    assert stat.S_IMODE(runtime_dir().stat().st_mode) == 0o700
    runtime_dir().chmod(mode)
    with pytest.raises(ExecutorError, match="others could write here"):
        runtime_dir()


# Secrets

SECRETS = {
    "HF_TOKEN": "hf_SecretSecretSecretSecret123456",
    "HUGGING_FACE_HUB_TOKEN": "hf_OtherOtherOtherOtherOther12",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYSECRETKEY",
    "TRIDENT_DUMMY_PASSWORD_OF_NOBODY": "",
}


def command_lines() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def secretive_run(
    start_program: Callable[..., subprocess.Popen[str]],
    finish_program: Callable[..., Any],
    drawn_slides: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str, set[str]]:
    """Job directory, what was shown, and all command lines meanwhile, of a real run with secrets around it."""
    folder = tmp_path_factory.mktemp("secrets")
    wsis = drawn_slides(folder / "wsis", "a.svs", "b.svs")
    (wsis / "broken.svs").write_bytes(b"II*\0broken")
    secrets = {name: value for name, value in SECRETS.items() if value}
    process = start_program(
        *("batch", "--task", "all", "--wsi_dir", wsis, "--job_dir", folder / "job", "--segmenter", "otsu"),
        *("--mag", 20, "--patch_size", 128, "--gpus", "-1", "--patch_encoder", "stain-stats"),
        *("--slide_encoder", "mean-stain-stats", "--skip_errors", "--debug"),
        env={**secrets, "TMPDIR": str(folder)},
    )
    seen: set[str] = set()
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(finish_program, process)
        while not end.done():
            seen |= command_lines()
            time.sleep(0.05)
    done = end.result()
    assert done.code == 4, done.err
    return folder / "job", done.out + done.err, seen


def test_no_secret_is_shown_or_written(secretive_run: tuple[Path, str, set[str]]) -> None:
    job_dir, shown, seen = secretive_run
    files = [path for path in job_dir.rglob("*") if path.is_file()]
    assert len(files) > 20
    for secret in filter(None, SECRETS.values()):
        assert secret not in shown
        assert not any(secret in line for line in seen)
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert any("run_batch_of_slides.py" in line for line in seen)


def test_what_a_run_writes_is_writable_by_nobody_else(secretive_run: tuple[Path, str, set[str]]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in secretive_run[0].rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert not mode & umask, f"{path}: {mode:o}"
        assert path.is_dir() or not mode & 0o111, f"{path}: {mode:o}"


# Links in a job directory


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file outside of the job directory, to which a link in it leads."""
    path = tmp_path / "precious.txt"
    path.write_text("precious\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "link").symlink_to(path)
    return path


def section() -> RunSection:
    return RunSection("id", "tool", "completed", "2026-01-01T00:00:00", "2026-01-01T00:00:01")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: append_summary(path, section()),
        lambda path: logs.record(path, "a.svs", "text"),
        lambda path: file_guard(path).__enter__(),
    ],
    ids=["summary", "log", "guard"],
)
def test_nothing_is_appended_through_a_link(precious: Path, write: Callable[[Path], object]) -> None:
    with pytest.raises(StoreError, match="link stands where this file belongs"):
        write(precious.parent / "job" / "link")
    assert precious.read_text() == "precious\n"


def test_a_whole_file_replaces_a_link_and_not_its_target(precious: Path) -> None:
    link = precious.parent / "job" / "link"
    write_text(link, "new")
    assert link.read_text() == "new"
    assert not link.is_symlink()
    assert precious.read_text() == "precious\n"


# The page


def promised_tests() -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))


def test_every_test_that_the_page_names_exists() -> None:
    promised = promised_tests()
    assert len(promised) > 20
    for path, name in promised:
        functions = {
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"{path}::{name}"


def test_every_limit_that_the_page_names_is_the_codes() -> None:
    from trident.slides import image, limits
    from trident.store import geojson

    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"\| `(\w+)` \| ([\d,]+) \|", text)
    assert len(named) >= 7
    for name, value in named:
        found = [getattr(module, name) for module in (limits, image, geojson) if hasattr(module, name)]
        assert found == [int(value.replace(",", ""))], name
