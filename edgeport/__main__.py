"""The process: Ctrl-C is answered from the first moment on, and runtimes' threads cannot delay or crash the end."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the `edgeport` script and of `python -m edgeport`."""
    code = 130
    try:
        from edgeport.cli import main as command

        code = command()
    except KeyboardInterrupt:  # while the command line itself is loaded, or while the first Ctrl-C is answered
        sys.stderr.write("edgeport: interrupted\n")
    sys.stderr.flush()
    os._exit(code)  # every file is closed and synced by now; an orderly end would wait for foreign threads


if __name__ == "__main__":
    main()
