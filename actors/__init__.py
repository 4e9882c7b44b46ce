"""The cast: the actors that carry a run, and the dispatcher that gives them threads."""
