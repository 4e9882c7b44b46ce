"""What a step's body does with its context, read from its source.

Annotations say what a step takes and returns. Whom it asks, what it waits for, and whether it sends events in a loop
stands in its body alone, so the source is read, never run. Where there is no source, nothing of that is known.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent
from greenroom.steps import StepSpec, step_options

__all__ = ["BodyFacts", "function_of", "parse", "read_body", "value_of"]

_MAX_DEPTH = 20  # of helpers that call helpers


@dataclass(slots=True)
class BodyFacts:
    """What a body may do.

    Attributes:
        questions: The classes of events that it asks people with, and waits for the answer.
        answers: The classes of the answers.
        awaits: The other classes of events that it waits for.
        sends: The classes of events that it sends with `ctx.send_event`, and whether one invocation may send several.
            So too the questions that it writes to the stream.
        fans_out: Whether one invocation may send several events.
        collects: Whether it calls `ctx.collect_events`.
    """

    questions: dict[type[Event], None] = field(default_factory=dict)
    answers: dict[type[Event], None] = field(default_factory=dict)
    awaits: dict[type[Event], None] = field(default_factory=dict)
    sends: dict[type[Event], bool] = field(default_factory=dict)
    fans_out: bool = False
    collects: bool = False


def function_of(spec: StepSpec, functions: Iterable[Any]) -> Any:
    """Return the function of a step among those of its workflow, or None."""
    return next((function for function in functions if step_options(function) is spec.options), None)


def read_body(spec: StepSpec, functions: Iterable[Any]) -> BodyFacts:
    """Read the body of a step, and of the helpers that it hands its context.

    Args:
        spec: The step.
        functions: The functions of the workflow class, steps and helpers.

    Returns:
        What it may do. A step without a context does nothing of it.
    """
    facts = BodyFacts()
    functions = list(functions)
    function = function_of(spec, functions)
    if function is not None and spec.context_parameter is not None:
        methods = {helper.__name__: helper for helper in reversed(functions)}
        _Reader(facts, methods, function, spec.context_parameter, spec.options.local_names).read(in_loop=False)
    return facts


class _Reader(ast.NodeVisitor):
    """Reads one function. `_sends` counts the events sent on the way to here, alternatives not added up."""

    def __init__(
        self,
        facts: BodyFacts,
        methods: Mapping[str, Any],
        function: types.FunctionType,
        context: str,
        local_names: Mapping[str, Any],
        callers: tuple[types.CodeType, ...] = (),
    ) -> None:
        self._facts = facts
        self._methods = methods
        self._function = inspect.unwrap(function)
        self._context = context
        self._local_names = local_names
        self._callers = (*callers, self._function.__code__)
        self._made: dict[str, type[Event]] = {}  # the classes of the events that variables hold
        self._loops = 0
        self._sends = 0

    def read(self, *, in_loop: bool) -> None:
        tree = parse(self._function)
        if tree is not None:
            self._loops = int(in_loop)
            self._visit_all(tree.body)

    # -- ways through the body -----------------------------------------------------------------------------------------

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _visit_alternatives(self, *branches: list[Any]) -> None:
        before, after = self._sends, []
        for branch in branches:
            self._sends = before
            self._visit_all(branch)
            leaves = bool(branch) and isinstance(branch[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
            after.append(before if leaves else self._sends)
        self._sends = max(after)

    def _visit_repeated(self, nodes: Iterable[ast.AST]) -> None:
        self._loops += 1
        self._visit_all(nodes)
        self._loops -= 1

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._visit_alternatives(node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._visit_alternatives([node.body], [node.orelse])

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        self._visit_alternatives(*(case.body for case in node.cases), [])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._visit_repeated(node.body)
        self._visit_all(node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self._visit_repeated([node.test, *node.body])
        self._visit_all(node.orelse)

    def _visit_comprehension(self, node: Any) -> None:
        self.visit(node.generators[0].iter)
        inner = [part for g in node.generators for part in ([] if g is node.generators[0] else [g.iter]) + g.ifs]
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._visit_repeated(inner + results)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension

    # -- what it does --------------------------------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign | ast.NamedExpr) -> None:
        self.generic_visit(node)
        made = self._class_made(node.value)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if made is not None and isinstance(target, ast.Name):
                self._made[target.id] = made

    visit_AnnAssign = visit_NamedExpr = visit_Assign

    def visit_Attribute(self, node: ast.Attribute) -> None:
        # Not called here, but handed on, as in map(ctx.send_event, events).
        if node.attr == "send_event" and self._is_context(node.value):
            self._note_send(None, many=True)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        if isinstance(called, ast.Attribute) and self._is_context(called.value):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            self._visit_all(arguments)
            self._note_call(called.attr, node)
            return
        self.generic_visit(node)
        self._read_helper(node)

    def _note_call(self, method: str, node: ast.Call) -> None:
        if method == "send_event":
            self._note_send(self._class_made(_argument(node, 0, "message")), many=self._loops > 0)
        elif method == "write_event_to_stream":
            written = self._class_made(_argument(node, 0, "ev"))
            if written is not None and issubclass(written, InputRequiredEvent):
                self._facts.sends.setdefault(written, self._loops > 0)
        elif method == "collect_events":
            self._facts.collects = True
        elif method == "ask":
            asked = self._class_made(_argument(node, 0, "request")) or InputRequiredEvent
            wanted = self._class_named(_argument(node, 1, "response")) or HumanResponseEvent
            self._note_question(asked, wanted)
        elif method == "wait_for_event":
            asked_with = self._class_made(_argument(node, 1, "waiter_event"))
            awaited = self._class_named(_argument(node, 0, "event_type"))
            if asked_with is not None and issubclass(asked_with, InputRequiredEvent):
                self._note_question(asked_with, awaited or HumanResponseEvent)
            elif awaited is not None:
                self._facts.awaits[awaited] = None

    def _note_question(self, asked: type[Event], answer: type[Event]) -> None:
        self._facts.questions[asked] = None
        self._facts.answers[answer] = None

    def _note_send(self, sent: type[Event] | None, *, many: bool) -> None:
        self._sends += 1
        if many or self._sends > 1:
            self._facts.fans_out = True
        if sent is not None:
            self._facts.sends[sent] = many or sent in self._facts.sends

    def _read_helper(self, node: ast.Call) -> None:
        """Follow a call that hands the context on, to a method of the workflow or a function of the program."""
        called: Any = None
        bound = 0
        match node.func:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=method):
                called, bound = self._methods.get(method), 1
        if called is None:
            called, bound = self._value(node.func), 0
        if type(called) is not types.FunctionType or len(self._callers) > _MAX_DEPTH:
            return
        called = inspect.unwrap(called)
        parameters = list(inspect.signature(called).parameters)[bound:]
        handed = [
            parameters[place]
            for place, argument in enumerate(node.args[: len(parameters)])
            if self._is_context(argument)
        ]
        handed += [k.arg for k in node.keywords if k.arg in parameters and self._is_context(k.value)]
        if handed and called.__code__ not in self._callers:
            helper = _Reader(self._facts, self._methods, called, handed[0], {}, self._callers)
            helper.read(in_loop=self._loops > 0)
            self._sends += helper._sends
            if self._sends > 1:
                self._facts.fans_out = True

    # -- what names mean -----------------------------------------------------------------------------------------------

    def _is_context(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self._context

    def _class_made(self, node: ast.expr | None) -> type[Event] | None:
        """Return the class of the event that an expression makes or holds."""
        if isinstance(node, ast.Call):
            return self._class_named(node.func)
        return self._made.get(node.id) if isinstance(node, ast.Name) else None

    def _class_named(self, node: ast.expr | None) -> type[Event] | None:
        value = self._value(node)
        # Not isinstance: a proxy, as web frameworks have them, may raise when it is asked for its class.
        return value if issubclass(type(value), type) and issubclass(value, Event) else None

    def _value(self, node: ast.expr | None) -> Any:
        if isinstance(node, ast.Name):
            return value_of(self._function, node.id, self._local_names)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            # Modules and classes only: an attribute of another object may be computed, and this runs no code.
            return (
                inspect.getattr_static(owner, node.attr, None)
                if issubclass(type(owner), types.ModuleType | type)
                else None
            )
        return None


def parse(function: types.FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Return the syntax tree of a function, or None where there is no source."""
    try:
        source = inspect.getsource(function)
        # A method is indented, and its texts of several lines may not be.
        tree = ast.parse(f"if True:\n{source}" if source[:1].isspace() else source)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None  # No source, or it has changed since it was imported.
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((node for node in found if node.name == function.__name__), None)


def _argument(node: ast.Call, place: int, name: str) -> ast.expr | None:
    if place < len(node.args):
        return node.args[place]
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def value_of(function: types.FunctionType, name: str, local_names: Mapping[str, Any] = {}) -> Any:
    """Return what a name means in a function: a variable around it, a global, or one of `local_names`; else None."""
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if free == name:
            try:
                return cell.cell_contents
            except ValueError:
                return None  # The variable has no value yet.
    return function.__globals__.get(name, local_names.get(name))
