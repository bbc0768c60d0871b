"""`python -m moonfast` is the `moonfast` command."""

from __future__ import annotations

import sys

from moonfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
