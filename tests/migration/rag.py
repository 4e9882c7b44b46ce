"""Retrieval and an answer: a chain of steps, with a retry, a shared state and progress on the stream."""

import asyncio

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

DOCUMENTS = {
    "actors": "An actor owns its state and handles one message at a time.",
    "mailbox": "A mailbox keeps the messages of an actor in order.",
    "tea": "Green tea is steeped at eighty degrees.",
}


class Retrieved(Event):
    query: str
    nodes: list[str]


class Ranked(Event):
    query: str
    nodes: list[str]


class Progress(Event):
    msg: str


class RAG(Workflow):
    def __init__(self, top_k: int, **kwargs):
        super().__init__(**kwargs)
        self.top_k = top_k

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def retrieve(self, ctx: Context, ev: StartEvent) -> Retrieved:
        if ctx.retry_info().retry_number == 0:
            raise ConnectionError("the index is busy")
        words = set(ev.query.lower().split())
        nodes = [text for text in DOCUMENTS.values() if words & set(text.lower().split())]
        ctx.write_event_to_stream(Progress(msg=f"retrieved {len(nodes)}"))
        return Retrieved(query=ev.query, nodes=nodes)

    @step
    async def rerank(self, ctx: Context, ev: Retrieved) -> Ranked:
        await ctx.store.set("seen", len(ev.nodes))
        ranked = sorted(ev.nodes, key=len)[: self.top_k]
        ctx.write_event_to_stream(Progress(msg=f"kept {len(ranked)}"))
        return Ranked(query=ev.query, nodes=ranked)

    @step
    async def synthesize(self, ctx: Context, ev: Ranked) -> StopEvent:
        seen = await ctx.store.get("seen")
        return StopEvent(result=f"{ev.query}? {' '.join(ev.nodes)} (of {seen})")


async def main():
    handler = RAG(top_k=1, timeout=10).run(query="an actor")
    async for ev in handler.stream_events():
        if isinstance(ev, Progress):
            print(ev.msg)
    print(await handler)


asyncio.run(main())
