"""Process all slides of a directory; the same as `trident batch`."""

import sys

from trident.cli import batch

if __name__ == "__main__":
    sys.exit(batch())
