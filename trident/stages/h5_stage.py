"""What the stages with HDF5 outputs share."""

from __future__ import annotations

from trident.stages.base import Stage
from trident.store.recipes import Recipe


class H5Stage(Stage):
    """A stage whose output is one of the HDF5 files of `trident.store.h5`."""

    def read_recipe(self) -> Recipe | None:
        from trident.store import h5

        return h5.read_recipe(self.output)

    def content_digest(self) -> str:
        """That of the whole file, for outputs that no other stage is made from; others know better."""
        from trident.store import digests

        return digests.sha256_of(self.output)
