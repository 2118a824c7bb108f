"""A small pipeline over text files, with which the rules of all stages can be tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.errors import StoreError
from trident.slides.discovery import SlideSource
from trident.stages.base import Progress, Stage, StageContext, StageResult
from trident.store.atomic import write_text
from trident.store.layout import JobLayout
from trident.store.recipes import Recipe, sha256_of

KINDS = ("segmentation", "coords", "patch_features")


class TextStage(Stage):
    """Writes the letters of what it needs, once more, into a JSON file with a recipe."""

    def __init__(self, context: StageContext, source: SlideSource, kind: str, options: dict[str, Any]) -> None:
        super().__init__(context, source)
        self.kind = kind  # type: ignore[misc]
        self.options = options
        self.produced = 0
        self.before_produce: Callable[[], None] = lambda: None

    @property
    def key(self) -> str:
        return "patch_features:text" if self.kind == "patch_features" else self.kind

    def usual_output(self) -> Path:
        return self.context.layout.job_dir / self.kind / f"{self.source.name}.json"

    @property
    def needs(self) -> Stage | None:
        rank = KINDS.index(self.kind)
        return TextStage(self.context, self.source, KINDS[rank - 1], self.options) if rank else None

    def settings(self) -> dict[str, Any]:
        return dict(self.options.get(self.kind, {}))

    def inputs(self) -> dict[str, str]:
        needs = self.needs
        if needs is None:
            return self.slide_inputs()
        return {needs.kind: needs.content_digest()} if needs.output.exists() else {}

    def read_recipe(self) -> Recipe | None:
        content = self._content()
        return Recipe.from_dict(content["recipe"], self.output) if "recipe" in content else None

    def content_digest(self) -> str:
        self._content()
        return sha256_of(self.output)

    def produce(self, progress: Progress) -> StageResult:
        self.produced += 1
        self.before_produce()
        needs = self.needs
        text = self.source.name if needs is None else str(needs._content()["text"]) * 2  # type: ignore[attr-defined]
        progress(1, 1)
        write_text(self.output, json.dumps({"text": text, "recipe": self.wanted_recipe().to_dict()}))
        return StageResult(f"{len(text)} letters", {"text": self.output})

    def _content(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.output.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.output}: damaged; use --overwrite to make it anew") from error
        return content


@pytest.fixture
def make_stage(tmp_path: Path) -> Callable[..., TextStage]:
    """Function (kind, made kinds, overwrite run, settings of kinds)."""
    slide = tmp_path / "ab.svs"
    slide.write_bytes(b"pixels")

    def make(
        kind: str, made: tuple[str, ...] = KINDS, overwrite_run: str | None = None, **options: dict[str, Any]
    ) -> TextStage:
        context = StageContext(JobLayout(tmp_path / "job", "grid"), frozenset(made), overwrite_run=overwrite_run)
        source = SlideSource(slide, slide.name, "ab", None, slide.stat().st_size)
        return TextStage(context, source, kind, options)

    return make
