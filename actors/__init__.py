"""The actors that run a workflow: dispatcher, supervisor, steps, stream, timer."""
