"""Stages that do nothing but write a tiny file, in place of the real ones: what is left is what the graph costs.

`install` changes the stages of every job in this process. For executors, which are processes of their own,
`bench_graph.py` puts it into their start (`sitecustomize`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trident.errors import StoreError
from trident.job import STAGE_KINDS
from trident.stages.base import Progress, Stage, StageResult
from trident.stages.plan import JobStages
from trident.store.atomic import write_text
from trident.store.recipes import Recipe


class IdleStage(Stage):
    """A stage whose output holds a recipe and nothing else."""

    def __init__(self, stages: JobStages, kind: str, slide: str) -> None:
        super().__init__(stages.context, stages.job.slides[slide])
        self.kind = kind  # type: ignore[misc]
        self._stages = stages
        self._key = next(key for key in stages.job.stages if key.partition(":")[0] == kind)

    @property
    def key(self) -> str:
        """Name in the state file."""
        return self._key

    def usual_output(self) -> Path:
        """A file of its own folder."""
        return self.context.layout.job_dir / self.kind / f"{self.source.name}.json"

    @property
    def needs(self) -> Stage | None:
        """The stage before this one."""
        rank = STAGE_KINDS.index(self.kind)
        return IdleStage(self._stages, STAGE_KINDS[rank - 1], self.source.name) if rank else None

    def settings(self) -> dict[str, Any]:
        """Nothing shapes the output."""
        return {"kind": self.kind}

    def inputs(self) -> dict[str, str]:
        """As a real stage has them."""
        needs = self.needs
        if needs is None:
            return self.slide_inputs()
        return {needs.kind: needs.found_digest()} if needs.is_there() else {}

    def read_recipe(self) -> Recipe | None:
        """The whole file is the recipe."""
        try:
            return Recipe.from_json(self.output.read_text(), self.output)
        except OSError as error:
            raise StoreError(f"{self.output}: {error}") from error

    def content_digest(self) -> str:
        """Never changes."""
        return f"content of {self.source.name}"

    def produce(self, progress: Progress) -> StageResult:
        """Write the recipe."""
        write_text(self.output, json.dumps(self.wanted_recipe().to_dict()))
        return StageResult("nothing", {"file": self.output})


def install() -> None:
    """Let all jobs of this process consist of idle stages."""

    def of_key(stages: JobStages, key: str, slide: str) -> Stage:
        return IdleStage(stages, key.partition(":")[0], slide)

    JobStages.stage = JobStages.of_key = of_key  # type: ignore[method-assign]
