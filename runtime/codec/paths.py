"""Where in a value something stands that a document cannot hold. Runs only after packing has failed."""

from typing import Any

from msgpack import ExtType

from greenroom.codec import wire
from greenroom.codec.encode import PLAIN, Encoder
from greenroom.codec.registry import TypeRegistry
from greenroom.errors import ContextSerdeError


def refusal(value: object, registry: TypeRegistry, root: str, failure: Exception) -> ContextSerdeError:
    """Return the error to raise for a value that could not be packed, with the path of the first culprit."""
    try:
        _Search(registry).visit(value, root, 0)
    except ContextSerdeError as error:
        return error
    except RecursionError:
        pass  # too deep even to look
    return ContextSerdeError(f"{root}: {failure or type(failure).__name__}")


class _Search:
    def __init__(self, registry: TypeRegistry) -> None:
        self._encoder = Encoder(registry)
        self._around: set[int] = set()
        self._cleared: dict[int, tuple[object, int]] = {}  # by id, with the object that keeps it and its depth

    def visit(self, value: Any, path: str, depth: int) -> None:
        if type(value) in PLAIN or self._cleared.get(id(value), (None, -1))[1] >= depth:
            return
        if id(value) in self._around:
            raise ContextSerdeError(f"{_short(path)}: this {type(value).__qualname__} contains itself; break the cycle")
        self._around.add(id(value))
        if type(value) is dict:
            _check_depth(path, depth)
            for key, item in value.items():
                self.visit(key, f"{path}[{_label(key)} as a key]", depth + 1)
                self.visit(item, f"{path}{_step(key)}", depth + 1)
        elif type(value) is list:
            _check_depth(path, depth)
            for index, item in enumerate(value):
                self.visit(item, f"{path}[{index}]", depth + 1)
        else:
            self._visit_exploded(value, path, depth)
        self._around.discard(id(value))
        self._cleared[id(value)] = value, depth

    def _visit_exploded(self, value: Any, path: str, depth: int) -> None:
        try:
            packable = self._encoder.explode(value)
        except Exception as error:
            raise ContextSerdeError(f"{_short(path)}: {error or type(error).__name__}") from error
        if isinstance(packable, ExtType):
            return
        assert isinstance(packable, dict)
        _check_depth(path, depth)
        (_, meta), *fields = packable.items()
        if isinstance(meta, list):  # of a holder
            for index, item in enumerate(meta):
                self.visit(item, f"{path}[{index}]", depth + 2)
            if meta:
                _check_depth(path, depth + 1)
        elif isinstance(meta, dict):  # of a model
            for name, item in meta.get("private", {}).items():
                self.visit(item, f"{path}.{name}", depth + 3)
            _check_depth(path, depth + 2)
        for name, item in fields:
            self.visit(item, f"{path}{_step(name)}", depth + 1)


def _check_depth(path: str, depth: int) -> None:
    if depth >= wire.MAX_DEPTH:
        raise ContextSerdeError(f"{_short(path)}: nested more than {wire.MAX_DEPTH} levels deep; make it flatter")


def _short(path: str) -> str:
    return path if len(path) <= 300 else f"{path[:150]}...{path[-140:]}"


def _step(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{_label(key)}]"


def _label(key: object) -> str:
    return repr(key)[:80] if type(key) in PLAIN else f"<{type(key).__qualname__}>"
