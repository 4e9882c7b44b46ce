"""A person decides: the question is streamed, the run is put away as JSON, and another object goes on with it."""

import asyncio
import json

from workflows import Context, Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class Payment(Workflow):
    @step
    async def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            HumanResponseEvent,
            waiter_id="approval",
            waiter_event=InputRequiredEvent(prefix=f"Pay {ev.amount} to {ev.to}?"),
            requirements={"user": "ada"},
        )
        return StopEvent(result="paid" if answer.response == "yes" else "refused")


async def ask_now():
    handler = Payment(timeout=10).run(to="Bo", amount=20)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            print(event.prefix)
            handler.ctx.send_event(HumanResponseEvent(response="no", user="eve"))
            handler.ctx.send_event(HumanResponseEvent(response="yes", user="ada"))
    print(await handler)


async def ask_tomorrow():
    handler = Payment(timeout=10).run(to="Cy", amount=30)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            print(event.prefix)
            break
    saved = json.dumps(handler.ctx.to_dict())
    await handler.cancel_run()

    workflow = Payment(timeout=10)
    handler = workflow.run(ctx=Context.from_dict(workflow, json.loads(saved)))
    await asyncio.sleep(0.1)
    handler.ctx.send_event(HumanResponseEvent(response="no", user="ada"))
    print(await handler)


asyncio.run(ask_now())
asyncio.run(ask_tomorrow())
