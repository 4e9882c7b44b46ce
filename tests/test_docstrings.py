"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import greenroom


def module_names() -> list[str]:
    """Every module of both packages but `__main__`, which runs a program when imported."""

    def fail(name: str) -> None:
        raise ImportError(f"cannot import {name}")

    found = pkgutil.walk_packages(greenroom.__path__, "greenroom.", onerror=fail)
    return ["greenroom", *(module.name for module in found if not module.name.endswith(".__main__"))]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(name: str) -> None:
    """The examples of this module print what its docstrings say."""
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples failed, see the captured output"
