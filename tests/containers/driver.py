"""A run of slides whose containers also see the folders of LIBRARIES, for an image that has no packages of its own.

And the folder MOODY, where that is set: the encoder there, which they can import, writes beside itself.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from trident.executors import docker
from trident.executors.container_needs import ContainerNeeds, container_needs
from trident.job import Job


def with_libraries(job: Job) -> ContainerNeeds:
    """What the job needs, and the libraries."""
    needs = container_needs(job)
    folders = [Path(folder) for folder in os.environ["LIBRARIES"].split(os.pathsep) if folder]
    needs = replace(needs, read_only=(*needs.read_only, *folders))
    if "MOODY" not in os.environ:
        return needs
    moody = Path(os.environ["MOODY"])
    environment = {**needs.environment, "PYTHONPATH": os.pathsep.join(map(str, [moody / "site", *folders]))}
    return replace(needs, writable=(*needs.writable, moody), environment=environment)


if __name__ == "__main__":
    docker.container_needs = with_libraries
    from trident.cli import batch

    sys.exit(batch())
