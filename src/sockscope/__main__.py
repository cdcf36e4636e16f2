"""``python -m sockscope``: the command line; see `sockscope._cli.main`."""

import sys

from sockscope._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
