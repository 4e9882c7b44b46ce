"""Where our side of a row spends its time, thread by thread.

A sampler and not a tracer: a tracer sees one thread, and makes small functions look expensive. Every millisecond the
stacks of all threads are looked at. CPU time is the clock of the thread, and a sleep is one voluntary context switch
that the kernel counted (Linux): both exact. A sample is taken where a thread gives up the interpreter lock, so the
functions are a hint and not a measurement; a thread that waits is sampled where it waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from benchmarks.row import Row
from benchmarks.worker import set_up, take_round

INTERVAL = 0.001
SECONDS = 3.0
THREADS = 8
FUNCTIONS = 12


@dataclass
class Seen:
    """What was seen of one thread: its name, clock and sleeps when first and last looked at, and its samples."""

    name: str = ""
    cpu: list[float] = field(default_factory=list)
    sleeps: list[int] = field(default_factory=list)
    own: Counter[str] = field(default_factory=Counter)
    under: Counter[str] = field(default_factory=Counter)


def profile(row: Row, size: int) -> str:
    """Measure our side of the row in this process for some seconds and return the breakdown as text."""
    measure = set_up(row, "ours")
    seen: dict[int, Seen] = {}
    stop = threading.Event()
    sampler = threading.Thread(target=_sample_until, args=(stop, seen), name="sampler")
    sampler.start()
    began = time.perf_counter()
    try:
        value = take_round(measure, size, SECONDS)
    finally:
        stop.set()
        sampler.join()
    wall = time.perf_counter() - began
    head = f"{row.name}: {wall:.2f} s in all, {value:.3e} {row.unit} a unit while sampled"
    busiest_first = sorted(seen.values(), key=lambda thread: thread.cpu[0] - thread.cpu[-1])
    others = f"\nand {len(seen) - THREADS} more threads" if len(seen) > THREADS else ""
    return "\n".join([head, *(describe(thread, wall) for thread in busiest_first[:THREADS]), others])


def _sample_until(stop: threading.Event, seen: dict[int, Seen]) -> None:
    while not stop.wait(INTERVAL):
        look(seen)


def look(seen: dict[int, Seen]) -> None:
    """Add one sample of every other thread to what was seen of it."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None or thread is threading.current_thread():
            continue
        entry = seen.setdefault(thread.ident or 0, Seen())
        entry.name = thread.name
        _look_at_clock(entry, thread)
        _look_at_stack(entry, frame)


def _look_at_clock(entry: Seen, thread: threading.Thread) -> None:
    try:
        cpu = time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    except OSError:  # the thread has ended since it was listed, or this is not Linux
        cpu, status = (entry.cpu or [0.0])[-1], ""
    entry.cpu[1:] = [cpu]
    _, _, sleeps = status.partition("\nvoluntary_ctxt_switches:")
    if sleeps:
        entry.sleeps[1:] = [int(sleeps.split(maxsplit=1)[0])]


def _look_at_stack(entry: Seen, innermost: FrameType) -> None:
    entry.own[_where(innermost)] += 1
    frame: FrameType | None = innermost
    under = set()
    while frame is not None:
        under.add(_where(frame))
        frame = frame.f_back
    entry.under.update(under)


def _where(frame: FrameType) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_qualname}"


def describe(thread: Seen, wall: float) -> str:
    """Say what was seen of a thread in `wall` seconds."""
    cpu = thread.cpu[-1] - thread.cpu[0]
    sleeps = f", {thread.sleeps[-1] - thread.sleeps[0]:,} sleeps" if thread.sleeps else ""
    samples = thread.own.total()
    lines = [f"\nthread {thread.name}: {cpu:.2f} s of CPU ({cpu / wall:.0%}){sleeps}, {samples:,} samples"]
    for title, counts in (("in", thread.own), ("under", thread.under)):
        lines += [f"  {title:5} {count / samples:4.0%}  {where}" for where, count in counts.most_common(FUNCTIONS)]
    return "\n".join(lines)
