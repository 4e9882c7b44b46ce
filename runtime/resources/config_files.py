"""Reading configuration files: JSON, TOML and YAML, and what a dotted selector names in them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["SUFFIXES", "read_config"]


def read_config(file: str, selector: str | None) -> Any:
    """Return the data of a configuration file, or the part of it that a selector names.

    Args:
        file: A path that ends in `.json`, `.toml`, `.yaml` or `.yml`; a relative one starts at the current directory.
        selector: Keys of mappings and indices of lists, with dots between them, as `models.0.name`; None for all.

    Raises:
        ValueError: With what is wrong, if there is no such file or part, or it cannot be parsed.
    """
    try:
        content = Path(file).read_bytes()
    except FileNotFoundError:
        where = "" if Path(file).is_absolute() else f" in {Path.cwd()}"
        raise ValueError(f"no such file: {file}{where}") from None
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    try:
        data = _PARSERS[Path(file).suffix.lower()](content)
    except ModuleNotFoundError as error:
        raise ValueError(f"to read {file}, install PyYAML: pip install 'greenroom[yaml]'") from error
    except Exception as error:  # Each parser has errors of its own.
        raise ValueError(f"{file} cannot be parsed: {error}") from error
    return _select(data, file, selector)


def _select(data: Any, file: str, selector: str | None) -> Any:
    passed: list[str] = []
    for part in selector.split(".") if selector else ():
        try:
            data = data[int(part)] if isinstance(data, list) else data[part]
        except (KeyError, IndexError, ValueError, TypeError):
            place = f"'{'.'.join(passed)}' of {file}" if passed else file
            if isinstance(data, dict):
                has = f"its keys are {', '.join(map(repr, data)) or 'none'}"
            elif isinstance(data, list):
                has = f"it is a list of {len(data)}"
            else:
                has = f"it is {data!r}"
            raise ValueError(f"'{selector}' names nothing: there is no '{part}' in {place}; {has}") from None
        passed.append(part)
    return data


def _parse_toml(content: bytes) -> Any:
    return tomllib.loads(content.decode())


def _parse_yaml(content: bytes) -> Any:
    import yaml  # An extra: only those who have such files need it.

    return yaml.safe_load(content)


_PARSERS: dict[str, Callable[[bytes], Any]] = {
    ".json": json.loads,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
SUFFIXES = tuple(_PARSERS)
