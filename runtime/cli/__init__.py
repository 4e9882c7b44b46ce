"""The command `greenroom`, for people at a terminal. It needs the extra `greenroom[cli]`; the engine does not."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; where typer or rich is not installed, say how to install them."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"greenroom needs {' and '.join(missing)}; install with: pip install 'greenroom[cli]'", file=sys.stderr)
        sys.exit(2)
    from greenroom.cli.app import app

    app()
