"""Command line of the demonstration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trident import exit_codes
from trident.demo.report import report
from trident.demo.slide import draw_demo_slide
from trident.errors import TridentError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `draw` or `report`; returns one of `trident.exit_codes`."""
    parser = argparse.ArgumentParser(prog="python -m trident.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("draw", help="draw a synthetic H&E slide (Aperio SVS)")
    draw.add_argument("path", type=Path, help="file to write, e.g. demo/slides/demo.svs")
    draw.add_argument("--seed", type=int, default=0, help="another seed draws another slide (default: 0)")
    draw.add_argument("--width-px", type=int, default=4096, help="width of level 0 (default: 4096)")
    draw.add_argument("--height-px", type=int, default=3072, help="height of level 0 (default: 3072)")
    draw.add_argument("--mpp", type=float, default=0.25, help="µm/px of level 0 (default: 0.25)")
    show = commands.add_parser("report", help="say where a job's outputs are and count them")
    show.add_argument("job_dir", type=Path)
    options = parser.parse_args(argv)
    try:
        if options.command == "draw":
            draw_demo_slide(
                options.path,
                seed=options.seed,
                width_px=options.width_px,
                height_px=options.height_px,
                mpp=options.mpp,
            )
        else:
            sys.stdout.write(report(options.job_dir))
    except TridentError as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_codes.USAGE
    return exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())
