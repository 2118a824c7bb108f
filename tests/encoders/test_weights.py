"""trident/encoders/weights.py: which file is used, and what is said when there is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trident.encoders.patch.registry import PATCH_ENCODER_NAMES, SPECS, spec
from trident.encoders.slide.registry import SLIDE_ENCODER_NAMES
from trident.encoders.weights import LOCAL_CKPTS_ENV, WeightsFile, fetch, locate, sha256_of
from trident.errors import SettingsError, WeightsError

UNI = spec("uni_v1")


@pytest.fixture(autouse=True)
def _no_machine_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOCAL_CKPTS_ENV, raising=False)


def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> Path:
    path = tmp_path / "ckpts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setenv(LOCAL_CKPTS_ENV, str(path))
    return path


def test_explicit_file_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"weights")
    assert locate(UNI, file) == WeightsFile(file, "given")
    assert locate(UNI, str(tmp_path)) == WeightsFile(file, "given")
    assert WeightsFile(file, "given").sha256 == hashlib.sha256(b"weights").hexdigest()


def test_folder_prefers_the_first_published_name(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    assert locate(spec("resnet50"), tmp_path) == WeightsFile(tmp_path / "model.safetensors", "given")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "absent.bin", "no such file"),
        (lambda folder: folder, "holds none of pytorch_model.bin"),
        (lambda folder: folder / "notes.txt", "must end in one of .pt, .pth, .bin, .safetensors"),
    ],
    ids=["missing", "folder without the file", "other ending"],
)
def test_wrong_explicit_path(tmp_path: Path, make: object, expected: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(WeightsError) as caught:
        locate(UNI, make(tmp_path))  # type: ignore[operator]
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda entries: entries, lambda entries: {"patch": entries, "slide": {}}])
def test_registry_flat_or_in_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: object) -> None:
    file = tmp_path / "any_name.pth"
    file.write_bytes(b"x")
    _registry(tmp_path, monkeypatch, wrap({"uni_v1": "any_name.pth", "uni_v2": None}))  # type: ignore[operator]
    assert locate(UNI) == WeightsFile(file, "registry")


def test_explicit_path_wins_over_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").write_bytes(b"a")
    (tmp_path / "b.pth").write_bytes(b"b")
    _registry(tmp_path, monkeypatch, {"uni_v1": str(tmp_path / "a.pth")})
    assert locate(UNI, tmp_path / "b.pth") == WeightsFile(tmp_path / "b.pth", "given")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"uni_v1": "/nowhere/uni.bin"}, "/nowhere/uni.bin: no such file (the path in"),
        ({"uni-v1": None}, "did you mean uni_v1?"),
        ({"uni_v1": 3}, "expected a string or null"),
        ({"patch": [], "slide": {}}, "section 'patch'"),
        ([], "not a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, expected: str) -> None:
    registry = _registry(tmp_path, monkeypatch, content)
    with pytest.raises(WeightsError) as caught:
        fetch(UNI)
    assert expected in str(caught.value)
    assert str(registry) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_registry_named_but_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_CKPTS_ENV, str(tmp_path / "absent.json"))
    with pytest.raises(WeightsError, match="registry of local weights cannot be read"):
        locate(UNI)


def test_packaged_registry_lists_every_encoder_with_weights() -> None:
    import trident.encoders

    content = json.loads((Path(trident.encoders.__file__).parent / "local_ckpts.json").read_text())
    assert set(content["patch"]) == set(PATCH_ENCODER_NAMES) - {"stain-stats"}
    published = {name for name in SLIDE_ENCODER_NAMES if not name.startswith("mean-")}
    assert set(content["slide"]) == published - {"abmil"}
    assert {value for section in content.values() for value in section.values()} == {None}


def test_encoder_without_weights(tmp_path: Path) -> None:
    stats = SPECS["stain-stats"]
    assert locate(stats) is None
    assert fetch(stats) is None
    with pytest.raises(SettingsError, match="stain-stats has no weights"):
        locate(stats, tmp_path)


def test_sha256_follows_a_changed_file(tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    blocks = bytes(range(256)) * 40_000  # more than one block of reading
    file.write_bytes(blocks)
    assert sha256_of(file) == hashlib.sha256(blocks).hexdigest()
    file.write_bytes(b"other")
    assert sha256_of(file) == hashlib.sha256(b"other").hexdigest()
    with pytest.raises(WeightsError, match="cannot be read"):
        sha256_of(tmp_path / "absent")


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one file meets."""

    content = b"published weights"
    refusals = (("MahmoodLab/UNI/", 403, "GatedRepo"), ("prov-gigapath/", 401, "RepoNotFound"))

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        for repo, status, code in self.refusals:
            if repo in self.path:
                return self._refuse(status, code)
        if not self.path.endswith("resnet50.tv_in1k/resolve/main/pytorch_model.bin"):
            return self._refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if body:
            self.wfile.write(self.content)
        return None

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _in_fresh_process(script: str, tmp_path: Path, **environment: str) -> list[str]:
    """The hub's client reads its settings once, when it is imported."""
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    environment = {**os.environ, **proxies, "HF_HOME": str(tmp_path / "hf"), **environment}
    root = Path(__file__).resolve().parents[2]
    prelude = (
        "import sys\n"
        "from trident.encoders.weights import fetch, locate\n"
        "from trident.encoders.patch.registry import spec\n"
        "from trident.errors import WeightsError\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + script], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


_FAIL = """
for name in sys.argv[1:] or NAMES:
    assert locate(spec(name)) is None
    try:
        fetch(spec(name))
        print("no error")
    except WeightsError as error:
        print(error)
assert "torch" not in sys.modules
"""


def test_offline(tmp_path: Path) -> None:
    (message,) = _in_fresh_process("NAMES = ['uni_v1']\n" + _FAIL, tmp_path, HF_HUB_OFFLINE="1")
    assert message.startswith("uni_v1: weights pytorch_model.bin of https://huggingface.co/MahmoodLab/UNI are not on")
    assert "--patch_encoder_ckpt_path" in message


def test_refusals_of_the_hub(tmp_path: Path, hub: str) -> None:
    gated, unknown, absent = _in_fresh_process(
        "NAMES = ['uni_v1', 'gigapath', 'kaiko-vits16']\n" + _FAIL, tmp_path, HF_ENDPOINT=hub
    )
    assert "MahmoodLab/UNI are gated: ask for access" in gated
    assert "HF_TOKEN" in gated
    assert "prov-gigapath/prov-gigapath: the hub knows no such repository" in unknown
    assert "kaiko_ai_towards_large_pathology_fms holds none of model.safetensors" in absent


def test_download_falls_to_the_second_name_and_is_found_again(tmp_path: Path, hub: str) -> None:
    script = """
declared = spec('resnet50')
assert locate(declared) is None
got = fetch(declared)
print(got.path.read_bytes().decode(), got.origin, locate(declared) == got, got.sha256)
"""
    (line,) = _in_fresh_process(script, tmp_path, HF_ENDPOINT=hub)
    assert line == f"published weights hub True {hashlib.sha256(_Hub.content).hexdigest()}"
