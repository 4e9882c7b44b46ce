"""What each of our log records bears, so that any format may name it."""

from __future__ import annotations

from typing import Any

__all__ = ["log_fields"]


def log_fields(run_id: str = "", step: str = "", invocation: int | str = "") -> dict[str, Any]:
    """Return the attributes that each record of ours bears: `Logger.info(..., extra=log_fields(...))`."""
    return {"run_id": run_id, "step": step, "invocation": invocation}
