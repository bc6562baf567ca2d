"""The command ``bnexp``, which is ``python -m bnexp``: from its first line on a signal ends it without a traceback."""

from __future__ import annotations

import sys

from bnexp.errors import Terminated
from bnexp.interruption import calm, heed, ignore


def main() -> None:
    """Run the command line; exit with 130 or 143 where a signal comes before a command has begun."""
    try:
        heed()
        from bnexp.cli import app

        app(prog_name="bnexp")
    except KeyboardInterrupt:
        calm()
        sys.exit(130)
    except Terminated:
        calm()
        sys.exit(143)
    finally:
        ignore()


if __name__ == "__main__":
    main()
