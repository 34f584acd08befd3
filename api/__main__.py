"""``python -m mmx``: the same as ``mmx``."""

import sys

from mmx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
