"""Luigi targets that know recipes: an output exists when it is whole and made as asked."""

from __future__ import annotations

import luigi

from trident.stages.base import Stage


class StageTarget(luigi.Target):
    """The output of one stage of one slide."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.path = str(stage.output)

    def exists(self) -> bool:
        """Whether the stage is done: the file is there and its recipe matches."""
        return self.stage.status().done

    def __str__(self) -> str:
        return self.path
