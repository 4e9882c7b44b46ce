"""A journey whose flight and hotel are runs within its own, side by side; one of them asks a person: see README.md."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, aio, step

FLIGHTS = {"Lisbon": 148, "Oslo": 96, "Turin": 71}
HOTELS = {"Lisbon": {"Alfama": 132, "Baixa": 79}, "Oslo": {"Aker": 218, "Grünerløkka": 121}, "Turin": {"Po": 88}}


class Journey(StartEvent):
    to: str
    nights: int = Field(2, ge=1)
    budget: int = Field(100, description="Euros a night that need nobody's word")


class Stay(StartEvent):
    to: str
    nights: int
    budget: int


class Progress(Event):
    message: str


class Found(Event):
    hotels: dict[str, int]


class Choice(HumanResponseEvent):
    decision: Literal["best", "cheapest"] = Field(description="Which one")


class FlightWorkflow(Workflow):
    """Books a flight. Its result is what it costs."""

    @step
    async def book(self, ctx: aio.Context, ev: StartEvent) -> StopEvent:
        if ev.to not in FLIGHTS:
            raise ValueError(f"no flight to {ev.to}; there is one to {', '.join(FLIGHTS)}")
        price = FLIGHTS[ev.to]
        ctx.write_event_to_stream(Progress(message=f"a seat to {ev.to} for {price} EUR"))
        return StopEvent(result=price)


class HotelWorkflow(Workflow):
    """Books a hotel, and asks a person if the best one is over the budget. Its result is what it costs."""

    @step
    def search(self, ctx: Context, ev: Stay) -> Found:
        found = Found(hotels=HOTELS.get(ev.to, {}))
        ctx.store.set("stay", ev)
        ctx.write_event_to_stream(Progress(message=f"{len(found.hotels)} hotels in {ev.to}"))
        return found

    @step
    def choose(self, ctx: Context, ev: Found) -> StopEvent:
        if not ev.hotels:
            return StopEvent(result=0)
        stay: Stay = ctx.store.get("stay")
        by_price = sorted(ev.hotels, key=lambda hotel: ev.hotels[hotel])
        hotel = by_price[-1]
        if ev.hotels[hotel] > stay.budget:
            asked = f"{hotel} is {ev.hotels[hotel]} EUR a night, {by_price[0]} is {ev.hotels[by_price[0]]}. Which one?"
            if ctx.ask(InputRequiredEvent(message=asked), Choice).decision == "cheapest":
                hotel = by_price[0]
        price = ev.hotels[hotel] * stay.nights
        ctx.write_event_to_stream(Progress(message=f"{stay.nights} nights at {hotel} for {price} EUR"))
        return StopEvent(result=price)


class JourneyWorkflow(Workflow):
    """Books both. Its result says what the journey costs."""

    @step
    def book(self, ctx: Context, ev: Journey) -> StopEvent:
        flight = ctx.run(FlightWorkflow(), to=ev.to)
        hotel = ctx.run(HotelWorkflow(), start_event=Stay(to=ev.to, nights=ev.nights, budget=ev.budget))
        total = flight.result() + hotel.result()  # Both are at work by now.
        return StopEvent(result=f"{ev.to}, {ev.nights} nights: {total} EUR")
