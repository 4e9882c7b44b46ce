"""Classes that have changed since their instances were stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict

from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from greenroom.codec import TypeRegistry, decode, encode, from_jsonable, to_jsonable
from greenroom.errors import ContextSerdeError
from tests.support.flavours import DEADLINE

NAME = "shop:Order"


def reread(stored: Any, now: type[Any]) -> Any:
    """Write an instance as its class was, and read it as the class is."""
    before, after = TypeRegistry(), TypeRegistry()
    before.register(type(stored), name=NAME)
    after.register(now, name=NAME)
    value = decode(encode([stored], before), after)[0]
    assert from_jsonable(to_jsonable([stored], before), after)[0] == value
    return value


class Old(Event):
    price: float
    name: str
    note: str = ""


def test_fields_are_added_renamed_split_and_merged() -> None:
    """The upcaster is given the stored fields, undeclared ones as well, and returns those of today."""

    class New(Event):
        cents: int
        first: str
        last: str
        remark: str = ""
        currency: str

        @classmethod
        def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
            if "price" in fields:
                fields["cents"] = round(fields.pop("price") * 100)
                fields["first"], _, fields["last"] = fields.pop("name").partition(" ")
                fields["remark"] = fields.pop("note")
            return {"currency": "EUR", **fields}

    new = reread(Old(price=1.5, name="Ada Lovelace", note="quick", colour="red"), New)
    assert new == New(cents=150, first="Ada", last="Lovelace", remark="quick", currency="EUR", colour="red")
    assert reread(new, New) == new
    assert reread(Old(price=2, name="A B"), New).model_fields_set == {"cents", "first", "last", "remark", "currency"}


class Point(NamedTuple):
    x: int


class Wide(NamedTuple):
    x: int
    y: int

    @classmethod
    def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {"y": 0, **fields}


@dataclasses.dataclass
class Flat:
    x: int


@dataclasses.dataclass(slots=True, frozen=True)
class Deep:
    at: Point

    @classmethod
    def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {"at": Point(fields["x"])} if "x" in fields else fields


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int


class Shut(BaseModel):
    model_config = ConfigDict(extra="forbid")
    z: int

    @classmethod
    def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {"z": fields.get("z", fields.get("x"))}


@pytest.mark.parametrize(
    ("stored", "now"), [(Point(1), Wide(1, 0)), (Flat(1), Deep(Point(1))), (Closed(x=1), Shut(z=1))], ids=str
)
def test_every_kind_of_record_has_upcasters(stored: Any, now: Any) -> None:
    """Named tuples, dataclasses with slots, and models that take no undeclared fields."""
    assert reread(stored, type(now)) == now


def test_an_upcaster_is_inherited() -> None:
    """It is called with the class that is built."""

    class Base(Event):
        @classmethod
        def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
            return {**fields, "by": cls.__name__}

    class Sub(Base):
        by: str

    assert reread(Old(price=1, name=""), Sub).by == "Sub"


def broken(upcast: Callable[[dict[str, Any]], Any]) -> type[Event]:
    class Broken(Event):
        cents: int

        @classmethod
        def __upcast__(cls, fields: dict[str, Any]) -> Any:
            return upcast(fields)

    return Broken


@pytest.mark.parametrize(
    ("upcast", "field", "message"),
    [
        (
            lambda fields: fields["total"],
            "total",
            r"Broken\.__upcast__ raised KeyError: 'total' for the stored",
        ),
        (lambda fields: 1 / 0, None, r"Broken\.__upcast__ raised ZeroDivisionError: division by zero"),
        (lambda fields: None, None, r"Broken\.__upcast__ must return a dict of fields; it returned NoneType"),
        (lambda fields: {1: 2}, None, r"Broken\.__upcast__ must return a dict of fields"),
        (lambda fields: {}, "cents", r"Broken needs its field cents, .* and its __upcast__ does not give"),
    ],
)
def test_a_wrong_upcaster_is_told_with_class_and_field(
    upcast: Callable[[dict[str, Any]], Any], field: str | None, message: str
) -> None:
    """Whatever it does, reading raises a ContextSerdeError that says where."""
    with pytest.raises(ContextSerdeError, match=message) as caught:
        reread(Old(price=1, name=""), broken(upcast))
    assert caught.value.type_name is not None
    assert caught.value.type_name.endswith("Broken")
    assert caught.value.field == field


def test_a_field_that_is_unknown_or_missing_is_told_without_an_upcaster_too() -> None:
    """With the class and the field, for programs as well."""
    with pytest.raises(ContextSerdeError, match=r"Shut has no field named y\. Its __upcast__ has to") as caught:
        TypeRegistry([Shut]).recipe_of(Shut).build(None, {"z": 1, "y": 2})  # type: ignore[union-attr]
    assert (caught.value.type_name, caught.value.field) == ("Shut", "y")
    with pytest.raises(ContextSerdeError, match="Closed needs its field x"):
        reread(Shut(z=1), Closed)
    with pytest.raises(ContextSerdeError, match="Old needs its field price") as caught:
        reread(Event(name=""), Old)
    assert (caught.value.type_name, caught.value.field) == ("Old", "price")


def test_what_is_no_classmethod_is_refused_when_it_is_registered() -> None:
    """Not only once something is read."""

    class Wrong(Event):
        def __upcast__(self, fields: dict[str, Any]) -> dict[str, Any]:
            return fields

    with pytest.raises(ContextSerdeError, match="must be a classmethod"):
        TypeRegistry([Wrong])


class Colour(Enum):
    RED = 1


def test_a_class_is_read_under_its_former_names() -> None:
    """Any number of them; it is written under the one it has now."""
    registry = TypeRegistry()

    @registry.register(formerly=["shop.old:Bill", "shop:Invoice"])
    class Receipt(Event):
        n: int

    registry.register(Colour, formerly="paint:Color")
    for name in ("shop.old:Bill", "shop:Invoice"):
        before = TypeRegistry()
        before.register(Old, name=name)
        assert decode(encode(Old(price=1, name="", n=1), before), registry).n == 1
    assert registry.name_of(Receipt) == f"{__name__}:{Receipt.__qualname__}"
    assert registry.child().get("paint:Color") is Colour


def test_former_names_are_checked() -> None:
    """They belong to one class, and look like names."""
    registry = TypeRegistry([Point])
    with pytest.raises(ContextSerdeError, match="cannot be a former name of"):
        registry.register(Wide, formerly=f"{__name__}:Point")
    with pytest.raises(ContextSerdeError, match=r"A former name is one as 'shop\.orders:Order'"):
        registry.register(Wide, formerly="Point")
    registry.register(Wide, formerly="geo:Point")
    registry.register(Wide, formerly="geo:Point")
    with pytest.raises(ContextSerdeError, match="belongs to"):
        registry.register(Flat, name="geo:Point")


class Question(InputRequiredEvent):
    text: str


class Reply(HumanResponseEvent):
    ok: bool


class Asking(Workflow):
    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(Question(text="?"), Reply).ok)


class Verdict(HumanResponseEvent):
    grade: int

    @classmethod
    def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {"grade": int(fields.pop("ok"))} if "ok" in fields else fields


class Query(InputRequiredEvent):
    title: str

    @classmethod
    def __upcast__(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {**{key: value for key, value in fields.items() if key != "text"}, "title": fields.get("text", "")}


class Graded(Workflow):
    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(Query(title="?"), Verdict).grade)


Graded.__name__ = "Asking"


def test_a_snapshot_of_renamed_and_reshaped_classes_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renaming is no difference of the graph, and an open question is answered with the class as it is now."""
    handler = Asking(workflow_name="asking").run()
    while not handler.pending_inputs():
        handler.exception(0) if handler.done() else None
    data = handler.ctx.snapshot()
    handler.cancel_run()
    now = Graded(workflow_name="asking")
    with pytest.raises(ContextSerdeError, match="Question"):
        Context.restore(now, data)
    registry = TypeRegistry()
    registry.register(Verdict, formerly=f"{__name__}:Reply")
    registry.register(Query, formerly=f"{__name__}:Question")
    monkeypatch.setattr("greenroom.named.global_registry", registry)
    again = now.run(ctx=Context.restore(now, data))
    (question,) = again.pending_inputs()
    assert question.request.title == "?"
    again.respond(question.input_id, {"grade": 7})
    assert again.result(DEADLINE) == 7
