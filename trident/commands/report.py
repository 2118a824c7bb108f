"""`trident report`: one HTML file that shows a whole job directory in a browser, without any network."""

from __future__ import annotations

import sys
from pathlib import Path

from trident import exit_codes
from trident.commands.options import OptionParser


def run(arguments: list[str]) -> int:
    """Write the report and print its path. Returns the exit code.

    Raises:
        TridentError: not a job directory, or the file cannot be written.
    """
    parser = OptionParser(prog="trident report", description=__doc__, allow_abbrev=False)
    parser.add_argument("job_dir", metavar="JOB_DIR", type=Path, help="job directory of a run, finished or not")
    parser.add_argument("--output", metavar="FILE", type=Path, help="file to write; default: JOB_DIR/report.html")
    given = parser.parse_args(arguments)

    from trident import log
    from trident.viz.report.write import write_report

    log.configure()
    path = write_report(given.job_dir, given.output)
    sys.stdout.write(str(path).encode("utf-8", "backslashreplace").decode() + "\n")
    return exit_codes.OK
