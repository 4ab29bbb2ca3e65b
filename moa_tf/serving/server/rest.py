"""The HTTP side: TensorFlow Serving's REST API, metrics, and the page with what it asks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from moa_tf.serving.server import metrics as prometheus
from moa_tf.serving.server.errors import Code, Refused
from moa_tf.serving.server.limits import Budget, read_body
from moa_tf.serving.server.metrics import Metrics
from moa_tf.serving.server.models import Models
from moa_tf.serving.server.openapi import ANSWERS, BODIES, PARAMETERS
from moa_tf.serving.server.settings import Settings
from moa_tf.serving.server.table import Tables
from moa_tf.serving.server.tensors import (
    Arrays,
    check_limit,
    classify_answer,
    classify_inputs,
    count_rows,
    predict_answer,
    read_json,
    read_predict,
)
from moa_tf.serving.server.version import CLASSIFY, DEFAULT, Version

log = logging.getLogger("moa_tf.server")

HEALTH = "/healthz"
PLACES = ("", "/versions/{version}", "/labels/{label}")
CODES = {code.value: code.name for code in Code}
STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
OPEN = ("/", HEALTH)
"""Paths that hold nothing of the models and need no token."""


class Rest:
    """The endpoints of one server.

    Args:
        models: in service.
        settings: limits and the token.
        metrics: told of each answer.
        draining: whether the server is about to end.
    """

    def __init__(
        self, models: Models, settings: Settings, metrics: Metrics, draining: Callable[[], bool]
    ) -> None:
        self.models, self.settings, self.metrics, self._draining = models, settings, metrics, draining
        self._budget = Budget(settings.memory)
        self._tables = Tables(settings)
        self._page = files("moa_tf.serving.server").joinpath("page.html").read_text(encoding="utf-8")

    def app(self) -> Any:
        """The ASGI application."""
        app = FastAPI(title="moa-tf", docs_url=None, redoc_url=None, version="1")
        app.add_exception_handler(Refused, lambda request, error: refusal(error))
        app.add_exception_handler(HTTPException, _not_routed)
        app.add_exception_handler(Exception, _broken)

        def route(path: str, endpoint: Callable[..., Awaitable[Response]], **options: Any) -> None:
            parameters = [PARAMETERS[name] for name in PARAMETERS if f"{{{name}}}" in path]
            extra = {"parameters": parameters, **options.pop("extra", {})}
            app.add_api_route(
                path, endpoint, response_class=Response, openapi_extra=extra, responses=ANSWERS, **options
            )

        for place in PLACES:
            base = "/v1/models/{model}" + place
            for method, work in (
                ("predict", self._predict),
                ("classify", self._classify),
                ("regress", self._regress),
            ):
                extra = {"requestBody": BODIES[method]}
                route(
                    f"{base}:{method}",
                    self._answering(method, work),
                    methods=["POST"],
                    extra=extra,
                    operation_id=f"{method}{place}",
                )
            route(f"{base}/metadata", self._metadata, methods=["GET"], operation_id=f"metadata{place}")
            route(base, self._status, methods=["GET"], operation_id=f"status{place}")
        for name, work in (
            ("rank", self._tables.rank),
            ("explain", self._tables.explain),
            ("csv", self._tables.csv),
            ("cards", self._tables.cards),
        ):
            extra = {"requestBody": BODIES["table"]}
            route(
                f"/api/models/{{model}}:{name}",
                self._answering(name, self._of_table(work)),
                methods=["POST"],
                extra=extra,
                operation_id=f"table-{name}",
            )
        route("/api/models", self._listing, methods=["GET"])
        route(prometheus.PATH, self._metrics, methods=["GET"])
        route(HEALTH, self._health, methods=["GET"])
        app.add_api_route("/", self._home, methods=["GET"], include_in_schema=False)
        return Guard(app, self.settings)

    def _answering(
        self, method: str, work: Callable[[Request, Version, bytes], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that reads the body, holds the version while `work` answers, and counts."""

        async def answer(request: Request) -> Response:
            name, status, start = request.path_params["model"], "OK", time.perf_counter()
            try:
                with self._budget.share() as share:
                    body = await read_body(request, self.settings, share)
                    start = time.perf_counter()
                    version = self.models.acquire(name, *_place(request))
                    try:
                        async with asyncio.timeout(self.settings.timeout):
                            return await work(request, version, body)
                    except TimeoutError:
                        raise Refused(
                            Code.DEADLINE_EXCEEDED, f"not computed within {self.settings.timeout:g} s"
                        ) from None
                    finally:
                        self.models.release(version)
            except Refused as error:
                status = error.code.name
                raise
            except Exception:
                status = Code.INTERNAL.name
                raise
            finally:
                known = name if name in self.models.policies else ""
                self.metrics.answered(known, method, "REST", status, time.perf_counter() - start)

        answer.__name__ = method
        return answer

    async def _predict(self, request: Request, version: Version, body: bytes) -> Response:
        name, inputs, rows, by_rows = read_predict(body, DEFAULT, lambda name: version.signature(name).inputs)
        outputs = await self._compute(version, name, inputs, rows)
        return _json(predict_answer(outputs, rows, version.signature(name).step.of_rows, by_rows))

    async def _classify(self, request: Request, version: Version, body: bytes) -> Response:
        asked = read_json(body)
        name = asked.get("signature_name") or CLASSIFY
        if name != CLASSIFY:
            raise Refused(
                Code.INVALID_ARGUMENT,
                "Expected classification signature method_name to be tensorflow/serving/classify. "
                "Was: tensorflow/serving/predict",
            )
        inputs = classify_inputs(asked)
        outputs = await self._compute(version, name, inputs, count_rows(inputs))
        return _json(classify_answer(outputs))

    async def _regress(self, request: Request, version: Version, body: bytes) -> Response:
        raise Refused(
            Code.INVALID_ARGUMENT,
            "Expected regression signature method_name to be tensorflow/serving/regress; this model has none",
        )

    async def _compute(self, version: Version, name: str, inputs: Arrays, rows: int) -> Arrays:
        check_limit(rows, self.settings.row_limit)
        return await asyncio.wrap_future(version.signature(name).submit(inputs, rows))

    def _of_table(self, work: Callable[..., Any]) -> Callable[[Request, Version, bytes], Awaitable[Response]]:
        async def answer(request: Request, version: Version, body: bytes) -> Response:
            content, kind = await asyncio.to_thread(work, version, body, dict(request.query_params))
            return Response(content, media_type=kind)

        return answer

    async def _status(self, request: Request) -> Response:
        statuses = self.models.statuses(_model(request), *_place(request))
        shown = [
            {
                "version": str(number),
                "state": STATES[status.state],
                "status": {
                    "error_code": Code.UNKNOWN.name if status.error else Code.OK.name,
                    "error_message": status.error,
                },
            }
            for number, status in statuses.items()
        ]
        return _json(orjson.dumps({"model_version_status": shown}))

    async def _metadata(self, request: Request) -> Response:
        from google.protobuf.json_format import MessageToDict

        version = self.models.acquire(_model(request), *_place(request))
        try:
            defs = {
                name: MessageToDict(
                    signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                for name, signature in version.signature_defs.items()
            }
            spec = {"name": version.model, "signature_name": "", "version": str(version.number)}
            value = {"model_spec": spec, "metadata": {"signature_def": {"signature_def": defs}}}
            return _json(orjson.dumps(value))
        finally:
            self.models.release(version)

    async def _listing(self, request: Request) -> Response:
        found = []
        for name in self.models.names():
            try:
                version = self.models.acquire(name)
            except Refused:
                continue
            try:
                found.append(self._tables.describe(version))
            finally:
                self.models.release(version)
        return _json(orjson.dumps({"models": found}))

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _health(self, request: Request) -> Response:
        if self._draining() or not self.models.ready:
            raise Refused(
                Code.UNAVAILABLE, "shutting down" if self._draining() else "no model in service yet"
            )
        return _json(b'{"status":"ok"}')

    async def _home(self, request: Request) -> Response:
        return HTMLResponse(
            self._page,
            headers={
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
                "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            },
        )


class Guard:
    """Lets through what is meant for this server and has its token."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            if not self._settings.knows(host):
                error = Refused(Code.PERMISSION_DENIED, "this server is not known by the name in Host", 421)
                return await refusal(error)(scope, receive, send)
            if scope["path"] not in OPEN and not self._settings.allows(headers.get(b"authorization")):
                error = Refused(
                    Code.UNAUTHENTICATED, "expected the server's token: Authorization: Bearer TOKEN"
                )
                return await refusal(error)(scope, receive, send)
        await self._app(scope, receive, send)


def refusal(error: Refused) -> Response:
    """The answer to a request that is refused."""
    headers = {"Retry-After": "1"} if error.status == 503 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not waited for
    return Response(orjson.dumps({"error": error.message}), error.status, headers, "application/json")


async def _not_routed(request: Request, error: Any) -> Response:
    """No such path or method; below /v1/ in TensorFlow Serving's words."""
    path = request.url.path
    if path.startswith("/v1/"):
        return refusal(Refused(Code.INVALID_ARGUMENT, f"Malformed request: {request.method} {path[:200]}"))
    return refusal(
        Refused(Code.NOT_FOUND, f"{error.detail}: {request.method} {path[:200]}", error.status_code)
    )


async def _broken(request: Request, error: Exception) -> Response:
    # uvicorn's log has the trace.
    return refusal(Refused(Code.INTERNAL, "internal error"))


def _model(request: Request) -> str:
    """The model that is asked about; what has a colon in it is a call with the wrong method."""
    name = request.path_params["model"]
    if ":" in name:
        raise Refused(Code.INVALID_ARGUMENT, f"Malformed request: {request.method} {request.url.path[:200]}")
    return name


def _place(request: Request) -> tuple[int | None, str | None]:
    """The version and label of a path."""
    version, label = request.path_params.get("version"), request.path_params.get("label")
    if version is None:
        return None, label
    if not (version.isascii() and version.isdecimal()) or int(version) >= 2**63:
        raise Refused(Code.INVALID_ARGUMENT, f"Failed to convert version: {version[:40]} to numeric.")
    return int(version), label


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
