"""Programs that tests start as processes of their own, to share a store with them or to be killed.

`python -m tests.support.store_process TASK KIND WHERE OWNER`; each line it prints was acknowledged by the store before.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from greenroom.stores import Commit, NewRun, PostgresStore, RunStore, SQLiteStore

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = 5


def store_of(kind: str, where: str) -> RunStore:
    """A store by its kind, and its file, or conninfo, schema and perhaps the seconds of its patience."""
    if kind == "sqlite":
        return SQLiteStore(where, poll_interval=0.01)
    conninfo, schema, *patience = where.split("|")
    return PostgresStore(conninfo, schema=schema, patience=float(patience[0]) if patience else 30.0)


def start(task: str, kind: str, where: str, owner: str) -> subprocess.Popen[str]:
    """Start a process; its output is read by `read_lines` or `communicate`."""
    command = [sys.executable, "-m", "tests.support.store_process", task, kind, where, owner]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def record(owner: str, run: int, seq: int) -> bytes:
    """What `write` commits as record and as event: big enough to cross pages now and then."""
    return f"{owner} {run} {seq} ".encode() * (seq % 97 + 1)


def write(store: RunStore, owner: str) -> None:
    """Commit records and events of the same numbers, with posts and snapshots between, until it is killed."""
    store.renew(owner, 1000)
    names = [f"{owner}-{i}" for i in range(RUNS)]
    assert store.commit([Commit(name, 1, new=NewRun("W", owner)) for name in names]) == [None] * RUNS
    seq = 0
    while True:
        store.post(names[seq % RUNS], "event", b"%d" % seq)
        taken: dict[str, list[int]] = {name: [] for name in names}
        for entry in store.inbox(owner=owner):
            taken[entry.run_id].append(entry.id)
        items = [[(seq, record(owner, i, seq))] for i in range(RUNS)]
        commits = [
            Commit(name, 1, records=items[i], events=items[i], taken=taken[name]) for i, name in enumerate(names)
        ]
        if seq % 10 == 9:
            commits[seq // 10 % RUNS].snapshot = (seq - 3, b"state before %d" % (seq - 3))
        assert store.commit(commits) == [None] * RUNS
        print(seq, flush=True)
        seq += 1


def acquire(store: RunStore, owner: str) -> None:
    """Make and take over runs in competition with others; print those that this process got."""
    store.renew(owner, 1000)
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(40):
        if store.create(f"new-{i}", "W", owner) is not None:
            print(f"new-{i}", flush=True)
        for name in store.acquire([f"free-{i}", f"orphan-{i}"], owner):
            print(name, flush=True)


def post(store: RunStore, owner: str) -> None:
    """Post once for the run `r`, when asked to."""
    print("ready", flush=True)
    sys.stdin.readline()
    store.post("r", "event", owner.encode())
    print("posted", flush=True)


def only_open(store: RunStore, owner: str) -> None:
    """Open, when asked to, and make a run."""
    print("ready", flush=True)
    sys.stdin.readline()
    store.open()
    assert store.create(owner, "W", owner) == 1
    print("made", flush=True)


if __name__ == "__main__":
    _, task, kind, where, owner = sys.argv
    store = store_of(kind, where)
    if task != "only_open":
        store.open()
    {"write": write, "acquire": acquire, "post": post, "only_open": only_open}[task](store, owner)
    store.close()
