"""The web process: begins orders, tells how they stand, and hands on answers. Views in any framework do the same."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from examples.orders import OrderWorkflow
from greenroom import GreenroomError, InputError, Runtime, WorkflowRuntimeError
from greenroom.errors import RunHeldError

Reply = tuple[int, dict[str, Any]]


def begin(runtime: Runtime, order: str, fields: dict[str, Any]) -> Reply:
    """POST /orders/ID: a second request with the same id, as after a lost answer, begins nothing."""
    try:
        OrderWorkflow(runtime=runtime).run(run_id=order, **fields)
    except RunHeldError:
        pass  # It was begun before, and a worker has it.
    except WorkflowRuntimeError as error:
        return 400, {"error": str(error)}
    return 202, {"order": order}


def show(runtime: Runtime, order: str) -> Reply:
    """GET /orders/ID: how it stands, and what it asks."""
    questions = [question for question in runtime.pending_inputs() if question.run_id == order]
    if questions:
        asked = [{"input_id": question.input_id, "message": question.request.get("message")} for question in questions]
        return 200, {"status": "waits", "questions": asked}
    try:
        handler = runtime.get(order)
    except RunHeldError:
        return 200, {"status": "running"}
    if handler is None:
        return 404, {"error": f"there is no order {order}"}
    return 200, {"status": handler.status, "result": handler.result() if handler.status == "completed" else None}


def answer(runtime: Runtime, input_id: str, fields: dict[str, Any]) -> Reply:
    """POST /answers/INPUT: the run takes it, whichever process has it."""
    try:
        runtime.respond(input_id, fields)
    except InputError as error:  # No such question, answered already, expired, or it does not fit.
        return 409, {"error": str(error)}
    return 202, {"answered": input_id}


def serve(runtime: Runtime, port: int) -> None:
    """Serve until interrupted."""

    class View(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(lambda kind, name: show(runtime, name))

        def do_POST(self) -> None:
            fields = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            self.reply(lambda kind, name: (answer if kind == "answers" else begin)(runtime, name, fields))

        def reply(self, view: Any) -> None:
            _, kind, name = self.path.split("/")
            try:
                code, body = view(kind, name)
            except GreenroomError as error:
                code, body = 503, {"error": str(error)}
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing for a request."""

    with ThreadingHTTPServer(("127.0.0.1", port), View) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
