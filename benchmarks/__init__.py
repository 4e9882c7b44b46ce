"""Greenroom beside the engine that its users would otherwise pick.

Run it with `python -m benchmarks` (or `make bench`). The other side is LlamaIndex Workflows, and DBOS where runs are
durable; `pip install -U llama-index-workflows dbos` fetches the newest. Without one, our own figures are printed alone.

How a figure is taken
- Each side of each row has a fresh process of its own. So neither pays for the other's garbage, threads, event loop or
  imports, and a hang or a crash costs one cell of the table and not the table. The process lives as long as the row, so
  that imports, class building, validation and one warm-up (a run of the row's quick size) happen once and untimed.
- The two processes take turns, ours, peer, ours, peer, one round each, so that a change in the load of the machine hits
  both. The one that is not measured is blocked on a pipe.
- A round is as many measurements as fit in half a second, at least one. Its figure is their median, and the figure of
  the row is the median of its rounds. Garbage is collected before each measurement; the collector stays on during it,
  since what an engine allocates is part of what it costs.
- The peer is set up to its advantage where there is a choice: no timeout, validation done beforehand, nothing verbose,
  one instance reused, one `asyncio.run` a measurement and not one a run.
- A measurement that takes longer than the row's limit ends with the stacks of all threads on stderr.

One row is one class in `benchmarks.rows`; see `benchmarks.row.Row` for how to add one.
"""
