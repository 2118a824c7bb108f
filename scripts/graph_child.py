"""One run of a cohort in a process of its own, timed from the moment when everything is imported; see bench_graph.py.

    python scripts/graph_child.py '{"wsi_dir": "…", "job_dir": "…", …}'

The last line of its output is a JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time


def main() -> None:
    began = time.perf_counter()
    from luigi_tasks.cohort import CohortRun, Outcome
    from luigi_tasks.start import run_settings
    from trident import log
    from trident.settings import load_settings

    log.configure()
    outcomes: list[Outcome] = []
    execute = CohortRun.execute

    def remember(run: CohortRun) -> Outcome:
        outcomes.append(execute(run))
        return outcomes[-1]

    CohortRun.execute = remember  # type: ignore[method-assign]
    settings = load_settings(**json.loads(sys.argv[1]))
    started, cpu_before = time.perf_counter(), time.process_time()
    code = run_settings(settings)
    ended, cpu_after = time.perf_counter(), time.process_time()
    print(
        json.dumps(
            {
                "code": code,
                "import_s": started - began,
                "run_s": ended - started,
                "cpu_s": cpu_after - cpu_before,
                "made": len(outcomes[0].completed),
                "done_before": len(outcomes[0].skipped),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
