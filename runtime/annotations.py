"""Names that annotations mean which are written as strings, as `from __future__ import annotations` makes them."""

from __future__ import annotations

import re
import types
from typing import Any

__all__ = ["local_names"]


def local_names(function: Any, frame: types.FrameType | None) -> dict[str, Any]:
    """Return the names of enclosing functions and class bodies that the annotations of a function may mean.

    Args:
        function: The function.
        frame: A frame that the function's definition, or its use, is reached from.
    """
    wanted = set(re.findall(r"\w+", " ".join(a for a in function.__annotations__.values() if isinstance(a, str))))
    names: dict[str, Any] = {}
    current = frame
    while wanted and current is not None and not _is_module(current):
        # Not every frame below is a scope around: it may be one that called the enclosing function.
        is_around = function.__qualname__.startswith(f"{current.f_code.co_qualname}.")
        if is_around and current.f_globals is function.__globals__:
            for name in wanted.intersection(current.f_locals):
                names.setdefault(name, current.f_locals[name])
        current = current.f_back
    return names


def _is_module(frame: types.FrameType) -> bool:
    """Return whether a frame is a module's. What `eval` runs is named as a module is, but has names of its own."""
    return frame.f_code.co_name == "<module>" and frame.f_locals is frame.f_globals
