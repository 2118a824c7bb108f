"""Process one slide; the same as `trident single`."""

import sys

from trident.cli import single

if __name__ == "__main__":
    sys.exit(single())
