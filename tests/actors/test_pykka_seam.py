"""What we override in Pykka, or rely on, is still there and is still used as we expect."""

from __future__ import annotations

import importlib.metadata
import inspect

import pykka
import pytest
from pykka import _actor, _ref
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from greenroom.actors.base import PooledActor, Ref, Reply
from greenroom.actors.mailbox import Mailbox
from greenroom.actors.root import RootSupervisor
from greenroom.actors.step import StepActor
from greenroom.actors.stream import StreamActor
from greenroom.actors.supervisor import RunSupervisor
from greenroom.actors.timer import DeadlineHeap, TimerActor
from tests.support.manual import ManualDispatcher


class Idle(PooledActor):
    """An actor of ours that does nothing."""


def test_pykka_is_a_version_that_the_seam_was_read_in():
    """A new major or minor version of Pykka is read before it is trusted: this test says so first."""
    major, minor = importlib.metadata.version("pykka").split(".")[:2]
    assert (int(major), int(minor)) >= (4, 5)
    assert int(major) == 4


@pytest.mark.parametrize("name", ["_create_actor_inbox", "_create_future", "_start_actor_loop"])
def test_the_seam_for_implementors_of_actor_types_is_there(name):
    """Pykka still has the three abstract methods that make an actor type, and we override each."""
    assert name in pykka.Actor.__abstractmethods__
    assert name in vars(PooledActor)
    assert name in vars(TimerActor)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("on_receive", ["self", "message"]),
        ("on_failure", ["self", "exception_type", "exception_value", "traceback"]),
        ("on_stop", ["self"]),
        ("stop", ["self"]),
    ],
)
def test_hooks_have_the_parameters_that_ours_have(name, parameters):
    """The hooks that we override take what they took."""
    assert list(inspect.signature(getattr(pykka.Actor, name)).parameters) == parameters


def test_every_actor_of_ours_is_a_pykka_actor():
    """All actors stand on Pykka's base class."""
    for cls in (PooledActor, RunSupervisor, RootSupervisor, StepActor, StreamActor, TimerActor):
        assert issubclass(cls, pykka.Actor)


def test_an_inbox_needs_put_get_and_empty_and_ours_have_them():
    """The protocol of an inbox has not grown."""
    wanted = {name for name in vars(_actor.ActorInbox) if not name.startswith("_")}
    assert wanted == {"put", "get", "empty"}
    for inbox in (Mailbox, DeadlineHeap):
        assert all(callable(getattr(inbox, name)) for name in wanted)


def test_an_actor_has_all_that_pykkas_own_constructor_would_set():
    """PooledActor.__init__ does not call Pykka's; every attribute that Pykka's sets can be read off ours."""

    class Plain(pykka.ThreadingActor):
        pass

    actor = Idle(ManualDispatcher())
    attributes = set(vars(Plain()))
    assert attributes == {"actor_urn", "actor_inbox", "actor_stopped", "_actor_ref"}
    assert isinstance(actor.actor_urn, str)
    assert actor.actor_inbox is actor
    assert not actor.actor_stopped.is_set()
    assert actor.actor_ref == actor.actor_ref


def test_a_ref_has_all_that_pykkas_own_constructor_sets():
    """Ref.__init__ does not call Pykka's; every attribute that Pykka's sets can be read off ours."""

    class Plain(pykka.ThreadingActor):
        pass

    actor = Idle(ManualDispatcher())
    ref = actor.actor_ref
    attributes = set(vars(pykka.ActorRef(Plain())))
    assert attributes == {"_actor_weakref", "actor_class", "actor_urn", "actor_inbox", "actor_stopped"}
    assert isinstance(ref, pykka.ActorRef)
    assert ref._actor_weakref() is actor
    assert ref.actor_inbox is actor.actor_inbox
    assert ref.actor_urn == actor.actor_urn
    assert ref.actor_class is Idle
    assert not ref.actor_stopped.is_set()


def test_pykka_asks_the_refs_actor_whether_it_lives():
    """`Ref.is_alive` is Pykka's and reads `actor_stopped`, of which ours has the one method that it needs."""
    dispatcher = ManualDispatcher()
    ref = Idle.start(dispatcher)
    assert ref.is_alive()
    ref.stop()
    assert not ref.is_alive()


def test_refs_methods_override_those_of_pykka():
    """`tell`, `ask` and `stop` of Ref replace methods that Pykka still has, with the same keywords."""
    for name in ("tell", "ask", "stop"):
        theirs, ours = inspect.signature(getattr(_ref.ActorRef, name)), inspect.signature(getattr(Ref, name))
        assert list(theirs.parameters) == list(ours.parameters)


def test_replies_override_the_methods_of_a_future():
    """`set`, `set_exception` and `get` of Reply replace methods that Pykka still has, with the same parameters."""
    for name in ("set", "set_exception", "get"):
        theirs, ours = inspect.signature(getattr(pykka.Future, name)), inspect.signature(getattr(Reply, name))
        assert list(theirs.parameters) == list(ours.parameters)


def test_an_envelope_carries_a_message_and_a_future():
    """Pykka's Envelope takes what we put in, and is as small as we count on."""
    reply = Reply()
    envelope = Envelope("hello", reply_to=reply)
    assert (envelope.message, envelope.reply_to) == ("hello", reply)
    assert Envelope("hello").reply_to is None
    assert not hasattr(envelope, "__dict__")


def test_the_message_that_stops_an_actor_takes_no_arguments():
    """`_ActorStop` is still Pykka's word for stop."""
    assert _ActorStop() is not None


def test_our_actors_are_not_in_pykkas_registry():
    """Leaving the registry costs O(actors), so our actors never enter it."""
    before = pykka.ActorRegistry.get_all()
    Idle.start(ManualDispatcher())
    assert pykka.ActorRegistry.get_all() == before
