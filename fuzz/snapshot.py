"""Fuzz `Context.restore`: any bytes give a context that can be put away again, or raise ContextSerdeError.

Run it with atheris, bounded: `make fuzz` does. An input is a document; the envelope with its checksum is put around it
here, or hardly any mutation would come past it. Every other input is given as it is.
"""

import sys
import tempfile
import threading
import zlib
from pathlib import Path

import atheris
import msgpack

with atheris.instrument_imports(include=["greenroom.snapshot", "greenroom.codec"]):
    from greenroom import Context, Event, InputRequiredEvent, Runtime, StartEvent, StopEvent, Workflow, step
    from greenroom.document import FORMAT
from greenroom.errors import ContextSerdeError


class Item(Event):
    """An event to collect."""

    n: int


class Review(Workflow):
    """A workflow that leaves something of every kind in its snapshots."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> Item:
        """Fill the state and one of two places of a collection, and send something for later."""
        ctx.store.set("count", 1)
        ctx.send_event(Item(n=3), delay=1000.0)
        return Item(n=1)

    @step
    def review(self, ctx: Context, ev: Item) -> StopEvent | None:
        """Wait for a person once the log holds something."""
        ctx.collect_events(ev, [Item, Item])
        ctx.once("key", str, ev.n)
        ctx.write_event_to_stream(ev)
        return StopEvent(result=ctx.ask(InputRequiredEvent(prefix="?"), timeout=1000.0))


def seeds(workflow: Review) -> list[bytes]:
    """Return the documents of a run before its start, while it is parked and after a cancel."""
    asked = threading.Semaphore(0)
    documents = [Context(workflow).snapshot()]
    with Runtime() as runtime:
        runtime.on_input(lambda question: asked.release())
        handler = workflow.run(run_id="r")
        asked.acquire()
        documents.append(handler.ctx.snapshot())
        handler.cancel_run()
        documents.append(handler.ctx.snapshot())
    return documents


WORKFLOW = Review(timeout=None)


def one_input(data: bytes) -> None:
    """Restore one input, with the envelope around it where its first byte is even."""
    if data and data[0] % 2 == 0:
        body = data[1:]
        data = msgpack.packb({"greenroom": FORMAT, "crc32": zlib.crc32(body), "document": body})
    try:
        context = Context.restore(WORKFLOW, data)
    except ContextSerdeError:
        return
    # Not compared: each restore counts up the attempts of what was cut off. A ContextSerdeError here is a finding.
    Context.restore(WORKFLOW, context.snapshot())


def main() -> None:
    """Start from snapshots of one run and fuzz until the limit of the command line."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, snapshot in enumerate(seeds(WORKFLOW)):
            one_input(snapshot)
            body = b"\0" + msgpack.unpackb(snapshot)["document"]
            one_input(body)
            (Path(corpus) / f"{number}").write_bytes(snapshot)
            (Path(corpus) / f"{number}-document").write_bytes(body)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
