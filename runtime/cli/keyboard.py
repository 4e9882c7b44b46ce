"""Reading what a person types, one line at a time.

`input()` cannot be called off. A question can: its run may end or its time run out while the person thinks. So the
terminal is waited on by `select`, and its line is read from the descriptor.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
from collections.abc import Callable, Iterator

__all__ = ["Keyboard", "NoLongerAsked"]

# Seconds between two looks at whether the question is still open. No event tells of its end.
_LOOK_EVERY = 0.25


class NoLongerAsked(Exception):
    """The question was closed while the person was asked."""


class Keyboard:
    """Standard input, which is a terminal."""

    def forget_typed(self) -> None:
        """Forget what was typed before now: it cannot be the answer to what is asked only next."""
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Do not show what is typed. It must hold before the prompt is shown: some type fast."""
        terminal = sys.stdin.fileno()
        shown = termios.tcgetattr(terminal)
        hidden = [*shown]
        hidden[3] = (hidden[3] & ~termios.ECHO) | termios.ECHONL
        termios.tcsetattr(terminal, termios.TCSADRAIN, hidden)
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, shown)

    def read_line(self, is_asked: Callable[[], bool]) -> str:
        """Return the next line, without its end.

        Args:
            is_asked: Tells whether the line is still wanted.

        Raises:
            NoLongerAsked: If it is not.
            EOFError: If the person ends the input (Ctrl-D), or the terminal has gone.
        """
        terminal = sys.stdin.fileno()
        typed = b""
        while not typed.endswith(b"\n"):
            ready, _, _ = select.select([terminal], [], [], _LOOK_EVERY)
            if not ready:
                if not is_asked():
                    raise NoLongerAsked
                continue
            try:
                chunk = os.read(terminal, 65536)
            except OSError as error:  # Linux reports the end of a terminal as an error.
                raise EOFError from error
            if not chunk:
                raise EOFError
            typed += chunk
        return typed.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")
