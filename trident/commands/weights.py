"""`trident weights`: which weights there are, fetch them, and check those on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from trident import exit_codes
from trident.commands.options import OptionParser
from trident.commands.table import FORMATS, Format, Row, show
from trident.encoders.models_list import choose_models
from trident.encoders.weights import LOCAL_CKPTS_ENV, WeightsSource, fetch, locate, sha256_of
from trident.errors import StoreError, TridentError

REGISTRY_NAME = "local_ckpts.json"


def run(arguments: list[str]) -> int:
    """Dispatch `list`, `fetch` and `check`. Returns the exit code.

    Raises:
        TridentError: an unknown model, or a registry that cannot be read.
    """
    parser = OptionParser(prog="trident weights", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,fetch,check}")
    listing = actions.add_parser("list", help="every model with its repository, file, and where it lies here")
    fetching = actions.add_parser("fetch", help="put weights into a folder that can be copied to another machine")
    checking = actions.add_parser("check", help="load the weights of this machine into their architecture")
    for one in (listing, fetching, checking):
        one.add_argument("names", nargs="*", metavar="MODEL", help="such as uni_v1 or slide/gigapath (default: all)")
    for one in (listing, checking):
        one.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    fetching.add_argument("--to", type=Path, required=True, help=f"folder; it gets a {REGISTRY_NAME} too")
    given = parser.parse_args(arguments)
    models = choose_models(given.names)
    if given.action == "list":
        show([_listed(key, source) for key, source in models.items()], given.format)
        return exit_codes.OK
    if given.action == "fetch":
        return _fetch(models, given.to)
    return _check(models, asked=bool(given.names), form=given.format)


def _listed(key: str, source: WeightsSource) -> Row:
    found = locate(source)
    return {
        "model": key,
        "repository": source.repo_id,
        "file": source.filenames[0],
        "gated": bool(getattr(source, "gated", False)),
        "here": None if found is None else str(found.path),
    }


def _fetch(models: Mapping[str, WeightsSource], folder: Path) -> int:
    """Copy each model's file to `folder/kind/name/`, and name them in a registry with relative paths."""
    registry_path = folder / REGISTRY_NAME
    registry = _read_registry(registry_path)
    failed = 0
    for key, source in models.items():
        kind, _, name = key.partition("/")
        try:
            found = fetch(source)
            assert found is not None  # every model here has weights
            relative = Path(kind) / name / found.path.name
            _copy(found.path, folder / relative)
        except TridentError as error:
            failed += 1
            sys.stderr.write(f"{key}: {error}\n")
            continue
        registry.setdefault(kind, {})[name] = relative.as_posix()
        _write_registry(registry_path, registry)
        sys.stdout.write(f"{key}\t{folder / relative}\n")
    if failed < len(models):
        sys.stderr.write(
            f"copy {folder} to the machine without internet, and set {LOCAL_CKPTS_ENV}=<folder>/{REGISTRY_NAME} there\n"
        )
    return exit_codes.FINISHED_WITH_FAILURES if failed else exit_codes.OK


def _check(models: Mapping[str, WeightsSource], *, asked: bool, form: Format) -> int:
    """Load every file that is here; a missing one is a failure only where it was asked for by name."""
    rows = [_checked(key, source) for key, source in models.items()]
    show(rows, form)
    bad = {"wrong", "missing"} if asked else {"wrong"}
    return exit_codes.FINISHED_WITH_FAILURES if any(row["state"] in bad for row in rows) else exit_codes.OK


def _checked(key: str, source: WeightsSource) -> Row:
    kind, _, name = key.partition("/")
    row: dict[str, object] = {"model": key, "state": "missing", "sha256": None, "detail": None}
    try:
        found = locate(source)
        if found is None:
            return row
        row["sha256"] = found.sha256
        _load(kind, name, found.path)
    except TridentError as error:
        return {**row, "state": "wrong", "detail": str(error)}
    return {**row, "state": "ok", "detail": str(found.path)}


def _load(kind: str, name: str, path: Path) -> None:
    if kind == "patch":
        from trident.encoders.patch.factory import encoder_factory as patch_factory

        patch_factory(name, weights_path=path)
    elif kind == "slide":
        from trident.encoders.slide.factory import encoder_factory as slide_factory

        slide_factory(name, weights_path=path)
    else:
        from trident.segmentation.registry import segmentation_model_factory

        segmentation_model_factory(name, weights_path=path)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, unless it is there already; the copy appears under its name only when it is whole."""
    from trident.store.atomic import atomic_path

    if target.exists() and sha256_of(target) == sha256_of(source):
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _read_registry(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not a readable registry ({error}); delete it, or name another folder") from error
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise StoreError(f"{path}: not a registry of local weights; delete it, or name another folder")
    return content


def _write_registry(path: Path, registry: Mapping[str, Mapping[str, str]]) -> None:
    from trident.store.atomic import write_json

    write_json(path, registry)
