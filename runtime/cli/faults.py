"""What goes wrong before a run begins."""

from __future__ import annotations

from greenroom.errors import GreenroomError

__all__ = ["CommandError"]


class CommandError(GreenroomError):
    """The command cannot be carried out as it was given, and no run began. The message says what to do."""
