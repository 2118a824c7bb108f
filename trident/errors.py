"""The errors that a user can meet.

Each message says what was wrong, in which file, and what to do next; the command line prints it as one line.
"""

from __future__ import annotations

from pathlib import Path


class TridentError(Exception):
    """Base of every error that is reported to a user in one line, without a traceback."""


class SettingsError(TridentError):
    """An option has a wrong or unknown value, or two options contradict each other."""


class NotAvailableError(TridentError):
    """A known name (encoder, segmenter, reader, option) whose implementation this version does not have."""


class SlideError(TridentError):
    """Something about one slide file. The message begins with the file's path."""

    def __init__(self, path: Path | str, message: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {message}")


class UnreadableSlideError(SlideError):
    """The file cannot be opened as a slide, or a region of it does not decode."""


class SlideMemoryError(SlideError):
    """There is not enough memory to open the slide or to read a part of it. That need not mean that it is damaged."""


class MissingMppError(SlideError):
    """The slide's resolution in µm/px is unknown or unusable."""


class DiscoveryError(TridentError):
    """The list of slides cannot be made: missing folder, bad CSV, or two slides with one name."""


class StoreError(TridentError):
    """A file in the job directory is missing, damaged or not what it should be."""


class RecipeMismatchError(TridentError):
    """An output exists but was made with other settings; `--overwrite` replaces it."""


class LockHeldError(TridentError):
    """Another running process is writing this output."""


class StageNotRequestedError(TridentError):
    """A stage is needed first, and the chosen `--task` does not include it."""


class WeightsError(TridentError):
    """Model weights are missing, unreadable, or do not fit the architecture."""


class CohortError(TridentError):
    """Some slides of a cohort failed; the message counts them."""


class ExecutorError(TridentError):
    """A process that runs stages does not start, or ended while it worked."""


class TaskTimeoutError(TridentError):
    """A stage took longer than `--task_timeout`."""


class NotStartedError(TridentError):
    """The run was told to stop before this stage began; nothing about the slide is wrong."""


class PutDownError(TridentError):
    """The run was told to stop and this stage's process ended under it; nothing about the slide is wrong."""


class UnforeseenError(Exception):
    """An error that nobody expected, met in another process: its type and text in one line, and its traceback."""

    def __init__(self, message: str, trace: str = "") -> None:
        self.trace = trace
        super().__init__(message)
