"""What the pages need beyond `docs/`: two files of the repository as pages of their own, and links that leave `docs/`.

The Markdown files are written to be read in the repository too. There a link such as `../benchmarks/README.md` is
right; in the built pages it leads to the page that is made of this file, or, for a file that is no page, becomes text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES_FROM = {"benchmarks/README.md": "benchmarks.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository, and the pages that are made of them."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from elsewhere."""
    from mkdocs.structure.files import File

    for source, page in PAGES_FROM.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave `docs/` to a page, or take them away."""
    here = next(
        (source for source, made in PAGES_FROM.items() if made == page.file.src_uri), f"docs/{page.file.src_uri}"
    )
    return rewrite_links(markdown, posixpath.dirname(here))


def rewrite_links(markdown: str, folder: str) -> str:
    """Links of a Markdown file in `folder` (relative to the repository) as the built pages need them."""

    def rewrite(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES_FROM:
            return f"{picture}[{text}]({PAGES_FROM[path]}{anchor})"
        if path.startswith("docs/"):
            return f"{picture}[{text}]({path.removeprefix('docs/')}{anchor})"
        return text

    return _LINK.sub(rewrite, markdown)
