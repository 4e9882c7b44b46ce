"""A place for the files of a measurement."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path

__all__ = ["temporary_folder"]


def temporary_folder() -> Path:
    """Return a folder that is removed at the end of the process."""
    folder = tempfile.TemporaryDirectory(prefix="greenroom-bench-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)
