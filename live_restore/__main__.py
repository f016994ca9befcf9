"""``python -m live_restore``."""

import sys

from live_restore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
