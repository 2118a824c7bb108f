"""Exit codes of every command, the same through `luigi` and `trident`."""

OK = 0
UNEXPECTED = 1
"""An error that nobody foresaw; a traceback is shown."""
USAGE = 2
"""A wrong option, an unreadable list of slides, or something that this version does not have."""
STOPPED = 3
"""A slide failed and the run stopped there (no `--skip_errors`)."""
FINISHED_WITH_FAILURES = 4
"""The run went through all slides; some failed."""
INTERRUPTED = 130
