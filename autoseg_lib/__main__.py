"""``python -m autoseg_lib`` is the same as ``autoseg``."""

import sys

from autoseg_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
