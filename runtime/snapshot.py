"""Snapshots: the document of a run as bytes or as JSON, and back.

The head says of which format, workflow and graph it is; it is read first, so that another workflow's classes are never
looked for. Reading builds only classes that the workflow's own code names, or that were registered.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgpack

from greenroom.codec import TypeRegistry, decode, encode, from_jsonable, to_jsonable
from greenroom.document import FORMAT
from greenroom.errors import ContextSerdeError
from greenroom.fingerprint import check_graph, find_graphs
from greenroom.graph import Graph

__all__ = ["document_from_dict", "document_to_dict", "dump_snapshot", "load_snapshot", "open_snapshot", "read_head"]

_HEAD = ("format", "workflow", "graph", "within")


def dump_snapshot(document: dict[str, Any], registry: TypeRegistry) -> bytes:
    """Return a document as one msgpack map with a checksum.

    Raises:
        ContextSerdeError: If it holds something that cannot be encoded; the message starts with its path.
    """
    head = encode({key: document[key] for key in _HEAD}, registry)
    body = encode({key: value for key, value in document.items() if key not in _HEAD}, registry, root="run")
    checksum = zlib.crc32(body, zlib.crc32(head))
    outer = {"greenroom": FORMAT, "crc32": checksum, "head": head, "document": body}
    return bytes(msgpack.packb(outer) or b"")


def load_snapshot(graph: Graph, data: bytes, registry: TypeRegistry, named: Sequence[Graph] = ()) -> Any:
    """Return the document of `dump_snapshot`.

    Raises:
        ContextSerdeError: If the bytes are no snapshot, are damaged, are of a newer format, of another workflow or
            another graph, or name a class that the program has not named.
    """
    head, body = open_snapshot(data)
    # First the head: another workflow has other classes, and the body would be refused for those.
    outside = decode(head, registry)
    _check_head(graph, outside, named, registry)
    document = decode(body, registry)
    return {**outside, **document} if isinstance(document, dict) else document


def open_snapshot(data: bytes) -> tuple[bytes, bytes]:
    """Return the head and the document of a snapshot, each still encoded.

    Raises:
        ContextSerdeError: If the bytes are no snapshot, are damaged, or are of a newer format.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ContextSerdeError(f"a snapshot is bytes, not an instance of {type(data).__name__}")
    try:
        outer = msgpack.unpackb(data, raw=False, strict_map_key=True, max_map_len=8, max_array_len=0, max_ext_len=0)
    except Exception as error:
        raise ContextSerdeError(f"these bytes are no snapshot: {error}") from error
    if not isinstance(outer, dict) or "greenroom" not in outer:
        raise ContextSerdeError("these bytes are no snapshot of Greenroom")
    _check_format(outer["greenroom"])
    head, body = outer.get("head"), outer.get("document")
    if not isinstance(head, bytes) or not isinstance(body, bytes):
        raise ContextSerdeError("these bytes are no snapshot of Greenroom")
    if zlib.crc32(body, zlib.crc32(head)) != outer.get("crc32"):
        raise ContextSerdeError("the snapshot is damaged: its checksum is wrong")
    return head, body


def document_to_dict(document: dict[str, Any], registry: TypeRegistry) -> dict[str, Any]:
    """Return a document as JSON-able values."""
    jsonable: dict[str, Any] = to_jsonable(document, registry, root="run")
    return jsonable


def document_from_dict(graph: Graph, jsonable: Any, registry: TypeRegistry, named: Sequence[Graph] = ()) -> Any:
    """Return the document of `document_to_dict`.

    Raises:
        ContextSerdeError: As `load_snapshot` does.
    """
    _check_head(graph, jsonable, named, registry)  # its values are plain, and so the same in both
    return from_jsonable(jsonable, registry)


def _check_format(version: Any) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ContextSerdeError(f"the snapshot names no format that there is: {version!r}")
    if version > FORMAT:
        raise ContextSerdeError(
            f"the snapshot has format {version}, which is newer than the {FORMAT} that this version of Greenroom reads:"
            " upgrade greenroom"
        )


def read_head(document: Any) -> tuple[Any, Any]:
    """Return the name of the workflow, and what the head of a snapshot says of its steps.

    Raises:
        ContextSerdeError: If it is of a newer format.
    """
    if not isinstance(document, dict) or "format" not in document:
        raise ContextSerdeError("this is no snapshot of Greenroom")
    _check_format(document["format"])
    return document.get("workflow"), document.get("graph")


def _check_head(graph: Graph, document: Any, named: Sequence[Graph], registry: TypeRegistry) -> None:
    """Raise if a snapshot is of another workflow, or if a graph was another one; the differences are listed."""
    workflow, then = read_head(document)
    if workflow != graph.name:
        raise ContextSerdeError(f"the snapshot is of {workflow}, not of {graph.name}")
    check_graph(then, graph, registry)
    find_graphs(document, named, graph, registry)
