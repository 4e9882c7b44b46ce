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

    def read_line(self, secret: bool, is_asked: Callable[[], bool]) -> str:
        """Return the next line, without its end.

        Args:
            secret: Whether to hide what is typed.
            is_asked: Tells whether the line is still wanted.

        Raises:
            NoLongerAsked: If it is not.
            EOFError: If the person ends the input (Ctrl-D), or the terminal has gone.
        """
        terminal = sys.stdin.fileno()
        typed = b""
        with _hidden(terminal) if secret else contextlib.nullcontext():
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


@contextlib.contextmanager
def _hidden(terminal: int) -> Iterator[None]:
    shown = termios.tcgetattr(terminal)
    hidden = [*shown]
    hidden[3] &= ~termios.ECHO
    hidden[3] |= termios.ECHONL
    termios.tcsetattr(terminal, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, shown)
