"""A run of slides whose containers also see the folders of LIBRARIES, for an image that has no packages of its own."""

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
    return replace(needs, read_only=(*needs.read_only, *folders))


if __name__ == "__main__":
    docker.container_needs = with_libraries
    from trident.cli import batch

    sys.exit(batch())
