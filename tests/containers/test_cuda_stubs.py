"""Stand-ins for libraries, as the dynamic linker of this machine sees them: symbols, versions, what a call does."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="stand-ins are for Linux on x86-64"
)

# Of the C library's mathematics: functions, one of which has several versions (`exp`), and a variable (`signgam`).
SYMBOLS = ("exp", "cosf", "signgam")
_LOOK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
dlvsym = ctypes.CDLL(None).dlvsym
dlvsym.restype, dlvsym.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
for name in sys.argv[2:]:
    name, _, version = name.partition("@")
    found = dlvsym(library._handle, name.encode(), version.encode()) if version else hasattr(library, name)
    print(name, version, bool(found))
"""


@pytest.fixture(scope="module")
def stubs() -> ModuleType:
    """The module `containers/cuda_stubs.py`."""
    spec = importlib.util.spec_from_file_location("cuda_stubs", ROOT / "containers" / "cuda_stubs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def libm() -> Path:
    """The C library's mathematics, which is loaded here."""
    ctypes.CDLL("libm.so.6")
    found = re.search(r"/\S+/libm[.-]\S+", Path("/proc/self/maps").read_text())
    if found is None:
        pytest.skip("this C library has no libm.so.6 of its own")
    return Path(found[0])


@pytest.fixture(scope="module")
def stand_in(stubs: ModuleType, libm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its stand-in."""
    path = tmp_path_factory.mktemp("stubs") / "stand-in.so"
    path.write_bytes(stubs.stub(libm.read_bytes()))
    return path


def _run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_it_exports_what_the_original_does(stand_in: Path, libm: Path) -> None:
    wanted = [*SYMBOLS, "no_such_function", "exp@GLIBC_2.2.5", "exp@GLIBC_2.29", "exp@GLIBC_9.9", "cosf@GLIBC_2.29"]
    original, copy = (_run(_LOOK, path, *wanted) for path in (libm, stand_in))
    assert original.stdout.count("True") >= 4 and original.stdout.count("False") >= 2, original.stderr
    assert (copy.stdout, copy.stderr) == (original.stdout, original.stderr)
    assert stand_in.stat().st_size < 200_000 < libm.stat().st_size


@pytest.mark.parametrize("name", ["exp", "cosf"])
def test_a_call_says_so_and_ends_the_process(name: str, stand_in: Path) -> None:
    done = _run("import ctypes, sys; print(getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])())", stand_in, name)
    expected = "libm.so.6: CUDA was called, but this image is for computing on the CPU; take the image for GPUs\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_a_function_can_answer_with_a_number(stubs: ModuleType, libm: Path, tmp_path: Path) -> None:
    path = tmp_path / "answering.so"
    answers = {"cosf": 92400, "ilogb": 2**31 - 1, "sinf": (9, 24, 7), "no_such_function": 3}
    path.write_bytes(stubs.stub(libm.read_bytes(), answers))
    code = """if True:
        import ctypes, sys
        library, value = ctypes.CDLL(sys.argv[1]), ctypes.c_int(-1)
        print(library.cosf(), library.ilogb(), flush=True)
        for index in (2, 0, 1):
            print(library.sinf(index, ctypes.byref(value)), value.value, flush=True)
        library.exp()
    """
    done = _run(code, path)
    assert (done.returncode, done.stdout) == (1, f"92400 {2**31 - 1}\n0 7\n0 9\n0 24\n"), done.stderr


def test_a_variable_is_there_and_zero(stand_in: Path) -> None:
    code = """if True:
        import ctypes, sys
        value = ctypes.c_int.in_dll(ctypes.CDLL(sys.argv[1]), "signgam")
        print(value.value)
        value.value = 5
        print(ctypes.c_int.in_dll(ctypes.CDLL(sys.argv[1]), "signgam").value)
    """
    done = _run(code, stand_in)
    assert (done.stdout, done.returncode) == ("0\n5\n", 0), done.stderr


@pytest.mark.parametrize(
    "content",
    [b"", b"import torch\n", b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x01" + bytes(100), b"\x7fELF\x02\x02"],
    ids=["empty", "text", "32 bits", "no machine", "the other byte order"],
)
def test_what_is_no_library_has_none(stubs: ModuleType, content: bytes) -> None:
    assert stubs.stub(content) is None


def test_a_program_has_none(stubs: ModuleType) -> None:
    assert stubs.stub(Path("/proc/self/exe").resolve().read_bytes()) is None
