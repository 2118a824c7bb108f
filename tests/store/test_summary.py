"""The summary that people read."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.store.summary import MAX_ERRORS, TITLE, RunSection, append_summary, render_section

SECTION = RunSection(
    run_id="0123456789ab",
    tool="batch",
    status="error",
    started_at="2030-01-01T00:00:00.000+00:00",
    finished_at="2030-01-01T01:00:00.000+00:00",
    slides_with_state=5,
    args={"mag": 20, "hf_token": "very-private"},
    stages={
        "segmentation": {"error": 1, "completed": 3, "skipped": 1},
        "coords": {"completed": 4, "error": 0},
        "patch_features:uni_v1": {"completed": 4},
        "patch_features:resnet50": {"skipped": 4},
        "slide_features:mean-uni_v1": {"completed": 4},
    },
    errors=[("bad.svs", "bad.svs: this file is empty")],
)
EXPECTED = """## 2030-01-01T00:00:00.000+00:00 batch: error

- run: `0123456789ab`
- finished: 2030-01-01T01:00:00.000+00:00
- slides with state: 5

### Arguments

```json
{
  "mag": 20
}
```

### Stages

- segmentation: completed: 3, skipped: 1, error: 1
- coords: completed: 4

### Patch features

- `uni_v1`: completed: 4
- `resnet50`: skipped: 4

### Slide features

- `mean-uni_v1`: completed: 4

### Errors (1)

- `bad.svs`: bad.svs: this file is empty
"""
CHILD = """
import sys
from pathlib import Path
from trident.store.summary import RunSection, append_summary
for i in range(20):
    append_summary(Path(sys.argv[1]), RunSection(f"{sys.argv[2]}{i}", "batch", "completed", "now", "then"))
"""


def test_a_section_is_as_people_expect_it() -> None:
    assert render_section(SECTION) == EXPECTED


def test_the_title_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "job" / "summary.md"
    append_summary(path, SECTION)
    append_summary(path, SECTION)
    assert path.read_text(encoding="utf-8") == f"{TITLE}\n\n{EXPECTED}\n{EXPECTED}"


def test_an_edited_summary_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("my own notes")
    append_summary(path, SECTION)
    assert path.read_text(encoding="utf-8") == f"my own notes\n\n{EXPECTED}"


def test_runs_that_end_together_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    children = [subprocess.Popen([sys.executable, "-c", CHILD, str(path), name]) for name in "ab"]
    assert [child.wait(600) for child in children] == [0, 0]
    text = path.read_text(encoding="utf-8")
    assert text.count(TITLE + "\n") == 1
    sections = text.removeprefix(f"{TITLE}\n\n").split("\n## now")
    template = render_section(RunSection("X", "batch", "completed", "now", "then"))
    expected = {template.replace("X", f"{name}{i}") for name in "ab" for i in range(20)}
    assert {("" if i == 0 else "## now") + part.rstrip("\n") + "\n" for i, part in enumerate(sections)} == expected


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("two\nlines", "two lines"),
        ("<b>*x* _y_ [z](u) `c` | #", r"\<b\>\*x\* \_y\_ \[z\](u) \`c\` \| \#"),
        ("at https://me:pw@host", r"at https://\[removed\]@host"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_messages_are_one_plain_line(message: str, shown: str) -> None:
    text = render_section(replace(SECTION, errors=[("a`b.svs", message)]))
    assert text.splitlines()[-1] == f"- `` a`b.svs ``: {shown}"


def test_many_errors_are_capped_and_counted() -> None:
    errors = [(f"{i}.svs", "bad") for i in range(MAX_ERRORS + 7)]
    text = render_section(replace(SECTION, errors=errors))
    assert f"### Errors ({MAX_ERRORS + 7})" in text
    assert f"`{MAX_ERRORS - 1}.svs`" in text
    assert f"`{MAX_ERRORS}.svs`" not in text
    assert text.splitlines()[-1].startswith("- and 7 more")


def test_a_run_without_stages() -> None:
    section = replace(SECTION, stages={}, errors=[], error="no slides were found in *")
    text = render_section(section)
    assert "### Stages\n\n- none\n" in text
    assert "- ended by: no slides were found in \\*\n" in text


def test_a_full_disk_leaves_the_summary_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("x" * 900 + "\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"summary\.md: cannot be written"):
            append_summary(path, SECTION)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "x" * 900 + "\n"


def test_where_the_time_went() -> None:
    seconds = {"total": 20.0, "wait": 16.0, "read": 30.0, "transform": 2.0, "encode": 1.8}
    text = render_section(
        RunSection("1", "t", "completed", "s", "f", timings={"coords": {"total": 1.25}, "patch_features:a": seconds})
    )
    section = text.partition("### Time\n\n")[2].splitlines()
    assert section[0] == "- `coords`: 1.2 s"
    assert section[1].startswith("- `patch_features:a`: 20.0 s; 75 % decode, 9 % encode, 5 % resize: the device waited")
    assert "### Time" not in render_section(RunSection("1", "t", "completed", "s", "f"))
