"""`trident encoders`: what is declared about every encoder."""

from __future__ import annotations

from trident import exit_codes
from trident.commands.options import OptionParser
from trident.commands.table import FORMATS, Row, show


def run(arguments: list[str]) -> int:
    """Print the patch and slide encoders. Returns the exit code."""
    parser = OptionParser(prog="trident encoders", description=__doc__, allow_abbrev=False)
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--kind", choices=("patch", "slide"), help="only patch encoders, or only slide encoders")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    if given.kind != "slide":
        rows += patch_encoder_rows()
    if given.kind != "patch":
        rows += slide_encoder_rows()
    show(rows, given.format)
    return exit_codes.OK


def patch_encoder_rows() -> list[Row]:
    """One row a patch encoder."""
    from trident.encoders.patch.registry import SPECS

    return [
        {
            "name": spec.name,
            "kind": "patch",
            "features": spec.embedding_dim,
            "mag": spec.magnification,
            "patch_size": spec.patch_size_px,
            "precision": spec.precision,
            "needs": None,
            "repository": spec.repo_id,
            "gated": spec.gated,
            "licence": spec.licence,
        }
        for spec in SPECS.values()
    ]


def slide_encoder_rows() -> list[Row]:
    """One row a slide encoder; the means stand in one row, since there is one for every patch encoder."""
    from trident.encoders.slide.registry import SPECS

    rows: list[Row] = [
        {
            "name": spec.name,
            "kind": "slide",
            "features": spec.embedding_dim,
            "mag": spec.magnification,
            "patch_size": spec.patch_size_px,
            "precision": spec.precision,
            "needs": spec.patch_encoder,
            "repository": spec.repo_id,
            "gated": spec.gated,
            "licence": spec.unavailable or spec.licence,
        }
        for spec in SPECS.values()
        if not spec.name.startswith("mean-")
    ]
    means = dict.fromkeys(rows[0]) | {"name": "mean-<patch encoder>", "kind": "slide", "needs": "<patch encoder>"}
    return [*rows, means]
