"""Which files are converted, with which µm/px."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from trident.convert.options import ConvertOptions
from trident.errors import DiscoveryError
from trident.slides.discovery import SlideSource, find_slides


def find_files(options: ConvertOptions) -> list[SlideSource]:
    """The files of the input directory and those of the CSV, sorted by relative path.

    The CSV need not name every file: one that it leaves out has the µm/px of its own metadata.

    Raises:
        DiscoveryError: no such folder, nothing to convert, two files with one name, or a bad CSV (each wrong row with
            its line number).
    """
    listed = {} if options.mpp_csv is None else {row.rel_path: row for row in _listed(options, options.mpp_csv)}
    try:
        found = find_slides(
            options.input_dir, extensions=options.wsi_ext, search_nested=options.search_nested, custom_list=None
        )
    except DiscoveryError as error:
        if not listed or not options.input_dir.is_dir() or "no slide found" not in str(error):
            raise _renamed(error) from error
        found = []  # all files lie in subfolders, where only the CSV finds them
    sources = {source.rel_path: source for source in [*listed.values(), *found]}
    sources = {
        rel_path: replace(source, mpp=listed[rel_path].mpp) if rel_path in listed else source
        for rel_path, source in sorted(sources.items())
    }
    clashes = [name for name, count in Counter(source.name for source in sources.values()).items() if count > 1]
    if clashes:
        paths = ", ".join(source.rel_path for source in sources.values() if source.name == clashes[0])
        raise DiscoveryError(f"{paths} would all become {clashes[0]}.tiff; rename them, or convert them to two folders")
    return list(sources.values())


def _listed(options: ConvertOptions, csv_path: Path) -> list[SlideSource]:
    try:
        listed = find_slides(options.input_dir, extensions=options.wsi_ext, custom_list=csv_path)
    except DiscoveryError as error:
        raise _renamed(error) from error
    if all(source.mpp is None for source in listed):
        raise DiscoveryError(f"{csv_path}: no row gives a µm/px; fill in the column `mpp`")
    return listed


def _renamed(error: DiscoveryError) -> DiscoveryError:
    """The same error with the names that the options have here."""
    names = {"--custom_list_of_wsis": "--mpp_csv", "--wsi_dir": "--input_dir"}
    text = str(error)
    for theirs, ours in names.items():
        text = text.replace(theirs, ours)
    return DiscoveryError(text)
