"""The codec: every accepted value comes back, every other is refused with its path."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import socket
import typing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, ForwardRef, Literal, NamedTuple, NewType

import msgpack
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.codec import (
    MAX_DEPTH,
    TypeRegistry,
    UnreconstructedException,
    decode,
    encode,
    from_jsonable,
    global_registry,
    reachable_classes,
    register_type,
    to_jsonable,
)
from greenroom.errors import ContextSerdeError
from tests.support.codec_values import (
    CLASSES,
    REGISTRY,
    AppError,
    Box,
    Colour,
    Level,
    Model,
    Note,
    Order,
    Pair,
    Point,
    Rights,
    Root,
    model,
    same,
    values,
)


def refused(value: Any, match: str, registry: TypeRegistry = REGISTRY) -> None:
    with pytest.raises(ContextSerdeError, match=match):
        encode(value, registry, root="state")


class TestRoundTrip:
    @settings(max_examples=400, deadline=None)
    @given(values)
    def test_any_value_comes_back_as_it_was(self, value: Any) -> None:
        """A decoded value is equal to the encoded one, of the same classes, and encodes to the same bytes."""
        data = encode(value, REGISTRY)
        again = decode(data, REGISTRY)
        assert same(again, value)
        assert encode(again, REGISTRY) == data

    @settings(max_examples=200, deadline=None)
    @given(values)
    def test_the_json_form_is_the_same_document(self, value: Any) -> None:
        """What `to_jsonable` gives survives JSON text and gives back the same bytes."""
        text = json.dumps(to_jsonable(value, REGISTRY), allow_nan=False)
        again = from_jsonable(json.loads(text), REGISTRY)
        assert same(again, value)
        assert encode(again, REGISTRY) == encode(value, REGISTRY)

    def test_integers_of_any_length(self) -> None:
        """Python's limit on decimal digits does not apply, in either form."""
        value = [10**5000, -(10**5000)]
        assert decode(encode(value, REGISTRY), REGISTRY) == value
        assert from_jsonable(to_jsonable(value, REGISTRY), REGISTRY) == value

    def test_json_forms_are_readable(self) -> None:
        """Tagged values are one object with the kind in its key; what looks like a tag is escaped."""
        assert to_jsonable([Colour.RED, {1}, Point(1)], REGISTRY) == [
            {"$enum": f"{Colour.__module__}:Colour\nRED"},
            {"$set": [1]},
            {"$record": f"{Point.__module__}:Point", "fields": {"x": 1, "y": 0}},
        ]
        assert to_jsonable({"$ref": 1}, REGISTRY) == {"$map": [["$ref", 1]]}

    def test_models_keep_everything_but_run_nothing(self) -> None:
        """Private attributes, extra fields and the set of fields come back; validators do not run again."""
        made = decode(encode(model("a", 1, {2}, by_default=True), REGISTRY), REGISTRY)
        assert (made.name, made._note, made.model_fields_set) == ("<a>", {2}, {"name"})
        note = decode(encode(Note(topic={"x": (1,)}), REGISTRY), REGISTRY)
        assert note.topic == {"x": (1,)}
        assert note.model_extra == {"topic": {"x": (1,)}}
        assert note.model_fields_set == {"topic"}

    def test_equal_models_give_equal_bytes_in_whatever_order_their_fields_were_set(self) -> None:
        """Declared fields are written in the order of the class."""
        other = Model.model_construct(**{"value": 1, "name": "a"})
        other.__dict__ = dict(reversed(other.__dict__.items()))
        assert encode(other, REGISTRY) == encode(Model.model_construct(name="a", value=1), REGISTRY)

    def test_equal_sets_give_equal_bytes(self) -> None:
        """The order in which a set was filled does not show, members of mixed kinds included."""
        members = [frozenset({1, "a"}), "b", -1, -2, None, (1, "x"), 2.5, Colour.RED]
        assert encode({*members}, REGISTRY) == encode({*members[::-1]}, REGISTRY)
        assert encode({8, 0}, REGISTRY) == encode({0, 8}, REGISTRY)

    def test_dicts_keep_their_order(self) -> None:
        """Insertion order is part of a dict, so it is part of its bytes."""
        assert list(decode(encode({"b": 1, "a": 2}, REGISTRY), REGISTRY)) == ["b", "a"]
        assert encode({"b": 1, "a": 2}, REGISTRY) != encode({"a": 2, "b": 1}, REGISTRY)

    def test_deep_sets_take_no_more_than_their_size(self) -> None:
        """Sets in sets are put in order once each, not once for every set around them."""
        nested: frozenset[Any] = frozenset({1, "a"})
        for _ in range(40):
            nested = frozenset({nested, 1})
        assert decode(encode(nested, REGISTRY), REGISTRY) == nested

    def test_pydantics_own_time_zone_becomes_pythons(self) -> None:
        """A datetime that pydantic parsed comes back equal, with a `datetime.timezone`."""
        moment = pydantic.TypeAdapter(datetime).validate_python("2020-01-01T00:00:00+02:00")
        again = decode(encode(moment, REGISTRY), REGISTRY)
        assert again == moment
        assert again.tzinfo == timezone(timedelta(hours=2))

    def test_dataclass_fields_out_of_the_constructor_and_cached_properties(self) -> None:
        """`init=False` fields are kept without running `__post_init__`; cached properties are computed again."""
        order = Order([1], seed=5)
        assert order.count == 1
        order.total = 9
        again = decode(encode(order, REGISTRY), REGISTRY)
        assert (again.total, vars(again)) == (9, {"lines": [1], "total": 9})

    def test_fields_that_a_class_gained_get_their_defaults(self) -> None:
        """A document of an older version of a class is read if new fields have defaults, else refused by name."""

        def version(name: str, **fields: Any) -> TypeRegistry:
            registry = TypeRegistry()
            registry.register(pydantic.create_model("Model", **fields), name=name)
            registry.register(dataclasses.make_dataclass("Data", [(n, t, d) for n, (t, d) in fields.items()]), name="d")
            return registry

        old = version("m", a=(int, 1))
        new = version("m", a=(int, 1), b=(list[int], dataclasses.field(default_factory=list)))
        cls = old.get("d")
        assert cls is not None
        assert decode(encode(cls(a=4), old), new).b == []
        cls = old.get("m")
        assert cls is not None
        again = decode(encode(cls(a=4), old), version("m", a=(int, 1), b=(int, 7)))
        assert (again.b, again.model_fields_set) == (7, {"a"})
        with pytest.raises(ContextSerdeError, match="needs its field b"):
            decode(encode(cls(a=4), old), version("m", a=(int, 1), b=(int, ...)))
        with pytest.raises(ContextSerdeError, match="no field named a"):
            decode(encode(cls(a=4), old), version("m", b=(int, 1)))


class TestExceptions:
    def test_class_arguments_attributes_notes_and_cause_come_back(self) -> None:
        """A chain of registered and built-in exceptions is rebuilt without calling their constructors."""
        error = AppError(3, hint={"a": {1}})
        error.add_note("while testing")
        error.__cause__ = FileNotFoundError(2, "No such file", "name.txt")
        again = decode(encode(error, REGISTRY), REGISTRY)
        assert type(again) is AppError
        assert (str(again), again.code, again.hint, again.__notes__) == ("code 3", 3, {"a": {1}}, ["while testing"])
        assert type(again.__cause__) is FileNotFoundError
        assert str(again.__cause__) == "[Errno 2] No such file: 'name.txt'"
        assert encode(again, REGISTRY) == encode(error, REGISTRY)

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("k"),
            ImportError("m", name="n", path="p"),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
            StopIteration(4),
            SystemExit(2),
            ExceptionGroup("g", [ValueError(1), OSError()]),
            TimeoutError(),
            ValueError("\ud800"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_builtin_exceptions_come_back(self, error: BaseException) -> None:
        """Python's own exceptions need no registration."""
        again = decode(encode(error, TypeRegistry()), TypeRegistry())
        assert (type(again), repr(again)) == (type(error), repr(error))
        assert encode(again, TypeRegistry()) == encode(error, TypeRegistry())
        for name in ("name", "path", "code", "value", "reason"):
            assert getattr(again, name, None) == getattr(error, name, None)

    def test_what_cannot_be_rebuilt_keeps_its_name_and_message(self) -> None:
        """Unknown classes and arguments that cannot be encoded become an UnreconstructedException, never an error."""
        unknown = decode(encode(AppError(3, hint=1), TypeRegistry()), TypeRegistry())
        assert isinstance(unknown, UnreconstructedException)
        assert str(unknown) == f"{AppError.__module__}:AppError: code 3"
        holding_lock = AppError(3, hint=socket.socket)
        again = decode(encode(holding_lock, REGISTRY), REGISTRY)
        assert (again.original_type, again.message) == (f"{AppError.__module__}:AppError", "code 3")
        assert encode(again, REGISTRY) == encode(holding_lock, REGISTRY)

    def test_a_traceback_is_left_behind(self) -> None:
        """Neither the bytes nor the encoder keep frames alive."""
        with pytest.raises(ValueError, match="x") as caught:
            raise ValueError("x")
        assert decode(encode(caught.value, REGISTRY), REGISTRY).__traceback__ is None

    def test_a_failing_str_does_not_stop_a_snapshot(self) -> None:
        """The message then says that there is none."""

        class Broken(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        assert "raised RuntimeError" in decode(encode(Broken(), REGISTRY), REGISTRY).message


class TestRefusals:
    def test_the_path_leads_to_the_value(self) -> None:
        """The message starts with the path and ends with what to do."""
        with socket.socket() as conn:
            refused({"user": {"conn": conn}}, r"^state\.user\.conn: socket\.socket is not .* keep it out")
            refused([{"a b": ({1: conn},)}], r"^state\[0\]\['a b'\]\[0\]\[1\]: ")
            refused(Note(text="x", deep=Point(conn)), r"^state\.deep\.x: ")
            refused(model("a", 1, conn, by_default=False), r"^state\._note: ")
            refused({(1, conn): 1}, r"^state\[<tuple> as a key\]\[1\]: ")

    @pytest.mark.parametrize(
        "value", [msgpack.ExtType(1, b"0x1"), msgpack.Timestamp(1), memoryview(b"x")], ids=lambda v: type(v).__name__
    )
    def test_types_of_msgpack_itself_are_no_way_in(self, value: Any) -> None:
        """Values that the packer would take on its own are refused wherever they stand."""
        name = type(value).__name__
        refused(value, rf"^state: .*{name} is not")
        refused({"a": [1, {"b": value}]}, rf"^state\.a\[1\]\.b: .*{name} is not")
        refused(Point([value]), rf"^state\.x\[0\]: .*{name} is not")
        refused({1: {(value,)}, 2: bytearray()}, rf"^state\[1\]\[0\]\[0\]: .*{name} is not")

    def test_unregistered_classes_name_the_fix(self) -> None:
        """A class that could be registered says so; a subclass of a plain type says what to convert it to."""
        refused([Colour.RED], r"^state\[0\]: .*Colour is not registered; .* register_type", TypeRegistry())
        refused({"a": Pair(1)}, r"^state\.a: .*Pair is not registered", TypeRegistry())
        refused(collections.OrderedDict(), r"OrderedDict is a subclass of dict, .* convert")

    def test_cycles_are_refused_where_they_close(self) -> None:
        """A cycle is named, through containers of any kind."""
        ring: list[Any] = []
        ring.append({"a": (ring,)})
        refused(ring, r"^state\[0\]\.a\[0\]: this list contains itself")
        order = Order([])
        order.total = order
        refused({"o": order}, r"^state\.o\.total: this Order contains itself")

    def test_the_same_object_twice_is_no_cycle(self) -> None:
        """Shared references come back as equal values."""
        shared = [1]
        assert decode(encode([shared, (shared, shared)], REGISTRY), REGISTRY) == [[1], ([1], [1])]

    @pytest.mark.parametrize(
        ("wrap", "levels"),
        [
            (lambda v: [v], 1),
            (lambda v: {"k": v}, 1),
            (Pair, 1),
            (lambda v: Note(text="", value=v), 1),
            (lambda v: (v,), 2),
        ],
        ids=["list", "dict", "dataclass", "model", "tuple"],
    )
    def test_depth_is_limited_alike_on_both_sides(self, wrap: Any, levels: int) -> None:
        """Values up to the limit come back, one more level is refused with its path."""
        value = 1
        for _ in range(MAX_DEPTH // levels):
            value = wrap(value)
        data = encode(value, REGISTRY)
        assert encode(decode(data, REGISTRY), REGISTRY) == data
        assert encode(from_jsonable(to_jsonable(value, REGISTRY), REGISTRY), REGISTRY) == data
        refused(wrap(value), r"^state.*: nested more than 200 levels deep")

    def test_attributes_that_no_field_declares_are_not_lost_in_silence(self) -> None:
        """A dataclass with a stray attribute is refused by the attribute's name."""
        order = Order([])
        order.stray = 1  # type: ignore[attr-defined]
        refused(order, r"^state: Order has the attribute stray, which is not a field")

    def test_a_model_without_a_value_for_a_field_is_refused(self) -> None:
        """It could not be built again."""
        refused(Model.model_construct(), r"^state: Model has no value for its field name")

    def test_time_zones_without_a_key_are_refused(self) -> None:
        """Only fixed offsets and zones of the tz database can be written."""
        from datetime import tzinfo

        class Local(tzinfo):
            pass

        refused(datetime(2020, 1, 1, tzinfo=Local()), r"^state: the time zone .* is neither")


class TestRegistry:
    def test_names_are_unique_and_stable(self) -> None:
        """Two classes cannot share a name, one class cannot have two, and doing the same again is fine."""
        registry = TypeRegistry([Pair])
        assert registry.register(Pair) is Pair
        with pytest.raises(ContextSerdeError, match="belongs to"):
            registry.register(Point, name=f"{Pair.__module__}:Pair")
        with pytest.raises(ContextSerdeError, match="already registered"):
            registry.register(Pair, name="other")

    def test_a_child_adds_to_its_parent_without_touching_it(self) -> None:
        """The child sees the parent's classes, later ones too; the parent sees none of the child's."""
        parent = TypeRegistry([Pair])
        child = parent.child([Point])
        parent.register(Colour)
        assert all(cls in child for cls in (Pair, Point, Colour))
        assert Point not in parent
        with pytest.raises(ContextSerdeError, match="belongs to"):
            child.register(Level, name=f"{Pair.__module__}:Pair")

    def test_only_classes_of_known_kinds_register(self) -> None:
        """A class whose instances are more than their fields is refused when it is registered."""

        @dataclasses.dataclass
        class Heavy(collections.deque[int]):
            a: int

        for wrong in (object, int, socket.socket, Heavy):
            with pytest.raises(ContextSerdeError, match="cannot be registered"):
                TypeRegistry([wrong])
        with pytest.raises(ContextSerdeError, match="Only a class"):
            TypeRegistry([list[int]])  # type: ignore[list-item]

    def test_register_type_is_a_decorator_for_the_whole_process(self) -> None:
        """With a name or without one, every registry made from the global one has the class."""

        @register_type(name="tests:Renamed")
        @dataclasses.dataclass
        class Local:
            a: int

        assert global_registry.child().name_of(Local) == "tests:Renamed"
        assert decode(encode(Local(1), global_registry), global_registry) == Local(1)


Alias = NewType("Alias", Box[int])


class Inner(pydantic.BaseModel):
    colour: Colour | None = None
    _hidden: Rights | None = None


@dataclasses.dataclass
class Outer:
    inner: Annotated[list[Inner], "x"]
    again: Outer | None
    unknown: NotThere | None = None  # type: ignore[name-defined]  # noqa: F821
    pairs: dict[str, tuple[Pair, ...]] = dataclasses.field(default_factory=dict)


class Typed(typing.TypedDict):
    note: Note


class Named(NamedTuple):
    typed: Typed
    level: Literal[Level.LOW] | None


def test_reachable_classes_follow_annotations() -> None:
    """Fields, containers, unions, literals, aliases and private attributes are followed; unresolved names are not."""
    assert reachable_classes(Outer) == {Outer, Inner, Colour, Rights, Pair}
    assert reachable_classes(dict[str, Named] | None) == {Named, Note, Level}
    assert reachable_classes(Alias, type[Root], AppError, ForwardRef("X"), int) == {Box[int], Root, AppError}
    assert reachable_classes(*CLASSES) >= set(CLASSES)


def test_paths_come_back_as_the_concrete_class() -> None:
    """`Path` is the class of this system, names that are not UTF-8 included."""
    path = Path("a/\udcff")
    assert same(decode(encode(path, REGISTRY), REGISTRY), path)


@given(st.dictionaries(st.text(), st.integers()))
def test_plain_documents_are_plain_msgpack(value: dict[str, int]) -> None:
    """Other programs read what needs no tag."""
    assert msgpack.unpackb(encode({"v": [value, None, 1.5, b"x"]}, REGISTRY)) == {"v": [value, None, 1.5, b"x"]} or any(
        not -(2**63) <= number < 2**64 for number in value.values()
    )


def test_enum_members_are_written_by_name() -> None:
    """A value may change between versions; a name that is gone is refused by name."""
    registry = TypeRegistry()
    registry.register(enum.Enum("Mode", {"OLD": 1}), name="m")
    later = TypeRegistry()
    later.register(enum.Enum("Mode", {"NEW": 1}), name="m")
    old = registry.get("m")
    assert old is not None
    with pytest.raises(ContextSerdeError, match="'m' has no member 'OLD'"):
        decode(encode(old["OLD"], registry), later)


def test_a_class_is_a_value_if_it_is_registered() -> None:
    """As the class of the answer that a question names; another class is refused by its own name and path."""
    registry = TypeRegistry([Point])
    for value in ({"answer": Point}, [Point, {Point}], {Point: 1}):
        assert decode(encode(value, registry), registry) == value
        assert from_jsonable(json.loads(json.dumps(to_jsonable(value, registry))), registry) == value
    with pytest.raises(ContextSerdeError, match=r"^value\.answer: the class .*Pair is not registered"):
        encode({"answer": Pair}, registry)
    with pytest.raises(ContextSerdeError, match="not registered"):
        decode(encode(Point, registry), TypeRegistry())
