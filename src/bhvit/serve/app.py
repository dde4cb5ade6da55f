"""The HTTP interface: routes, and what each answers."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .. import __version__
from ..errors import UserError, one_line, shown
from ..spec.model import Task
from ..spec.values import nearest
from ..text import without_middle
from . import inference, tensors
from .body import Bodies, files_of, is_form
from .limits import Limits, RequestError, busy
from .log import Log
from .metrics import Metrics
from .models import Model, Models
from .openapi import document, page
from .pool import Pool

Handler = Callable[[Request], Awaitable[Response]]
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class Service:
    """The models of a server, and what is asked of them."""

    def __init__(self, models: Models, limits: Limits, workers: int, log: Log, web: Path | None = None) -> None:
        self.models, self.limits, self.log = models, limits, log
        self.pool = Pool(workers, limits.queue)
        self.metrics = Metrics(self.pool)
        self.metrics.models.set_function(lambda: len(models.all))
        self.draining = False
        self._bodies = Bodies(limits)
        self._active = 0
        self._web = web

    def app(self) -> Starlette:
        """The ASGI application."""
        model = "/v2/models/{model}"
        routes = [
            self._route("GET", "/v2/health/live", self._live),
            self._route("GET", "/v2/health/ready", self._ready),
            self._route("GET", "/v2", self._server),
            self._route("POST", "/v2/repository/index", self._index),
            *(
                self._route(method, prefix + path, handler)
                for prefix in (model, model + "/versions/{version}")
                for method, path, handler in (
                    ("GET", "", self._metadata),
                    ("GET", "/ready", self._model_ready),
                    ("GET", "/config", self._config),
                    ("GET", "/stats", self._stats),
                    ("POST", "/infer", self._infer),
                )
            ),
            self._route("POST", "/classify", self._classify),
            self._route("POST", "/segment", self._segment),
            self._route("GET", "/metrics", self._metrics),
            self._route("GET", "/openapi.json", self._openapi),
            self._route("GET", "/docs", self._docs),
        ]
        if self._web is not None:
            routes.append(Mount("/", StaticFiles(directory=self._web, html=True)))  # type: ignore[arg-type]
        else:
            routes.append(self._route("GET", "/", self._docs))
        return Starlette(routes=routes, exception_handlers={HTTPException: self._unanswered})

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            begin = time.perf_counter()
            self._active += 1
            fields: dict[str, object] = {}
            try:
                if self._active > self.limits.connections:
                    raise busy("too many connections: try again later")
                response = await handler(request)
            except RequestError as error:
                response = _error(error.status, error.message)
                if error.retry_after is not None:
                    response.headers["retry-after"] = str(error.retry_after)
                if error.status == 408:  # the rest of the body may still come
                    response.headers["connection"] = "close"
                fields["reason"] = error.message
            except UserError as error:
                response = _error(400, str(error))
                fields["reason"] = str(error)
            except asyncio.CancelledError:  # the time to finish what runs is over
                if not self.draining:
                    raise
                response = _error(503, "the server has stopped before the answer")
                fields["reason"] = "stopped"
            except Exception as error:
                response = _error(500, "the server has made a mistake; its log says more")
                fields["reason"] = "".join(traceback.format_exception(error))
            finally:
                self._active -= 1
            seconds = time.perf_counter() - begin
            status = response.status_code
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if status >= 400 or method == "POST":
                self.log(
                    "request",
                    level="error" if status == 500 else "warning" if status >= 400 else "info",
                    method=method,
                    path=request.url.path,
                    status=status,
                    seconds=round(seconds, 4),
                    client=request.client.host if request.client else None,
                    **fields,
                )
            response.headers.update(_HEADERS)
            return response

        return Route(path, endpoint, methods=[method])

    async def _unanswered(self, request: Request, error: Exception) -> Response:
        """Answer and log a request for which there is no route."""
        assert isinstance(error, HTTPException)
        path = without_middle(request.url.path)
        message = f"{request.method} {path} is nothing that this server answers; /docs lists what it does"
        response = _error(error.status_code, message)
        response.headers.update({**_HEADERS, **(error.headers or {})})
        self.metrics.requests.labels("unknown", str(error.status_code)).inc()
        self.log(
            "request",
            level="warning",
            method=request.method,
            path=path,
            status=error.status_code,
            client=request.client.host if request.client else None,
            reason="no such path" if error.status_code == 404 else "no such method of this path",
        )
        return response

    def _model(self, request: Request) -> Model:
        """The model that a path names."""
        name, version = request.path_params["model"], request.path_params.get("version", "1")
        found = self._named(name)
        if version != "1":
            raise RequestError(404, f"the model {name} has the version 1 only")
        return found

    def _named(self, name: str) -> Model:
        if (found := self.models.all.get(name)) is None:
            raise RequestError(404, f"there is no model {name}; known: {', '.join(sorted(self.models.all))}")
        return found

    def _able(self, request: Request, task: Task) -> Model:
        """The model that a query names, or the only one of a task."""
        name = request.query_params.get("model")
        found = self.models.default(task) if name is None else self._named(name)
        if found is None:
            raise RequestError(400, f"name the model: ?model= one of {', '.join(sorted(self.models.all))}")
        if found.session.task != task:
            does = "classifies images: POST /classify" if task == "segment" else "labels pixels: POST /segment"
            raise RequestError(400, f"the model {found.name} {does}")
        return found

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        if self.draining:
            raise RequestError(503, "the server is stopping")
        return JSONResponse({"ready": True})

    async def _server(self, request: Request) -> Response:
        extensions = ["classification", "binary_tensor_data", "model_configuration", "statistics", "model_repository"]
        return JSONResponse({"name": "bhvit", "version": __version__, "extensions": extensions})

    async def _index(self, request: Request) -> Response:
        names = sorted(self.models.all)
        return JSONResponse([{"name": name, "version": "1", "state": "READY", "reason": ""} for name in names])

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(inference.metadata(self._model(request)))

    async def _model_ready(self, request: Request) -> Response:
        return JSONResponse({"name": self._model(request).name, "ready": True})

    async def _config(self, request: Request) -> Response:
        return JSONResponse(inference.configuration(self._model(request), self.limits.batch))

    async def _stats(self, request: Request) -> Response:
        return JSONResponse({"model_stats": [self._model(request).statistics()]})

    async def _infer(self, request: Request) -> Response:
        model = self._model(request)
        header_length = request.headers.get(tensors.HEADER_LENGTH)

        def work(body: bytes) -> tuple[bytes, dict[str, str]]:
            return inference.infer(model, body, header_length, self.limits)

        body, headers = await self._run(request, model, work)
        return Response(body, headers=headers)

    async def _classify(self, request: Request) -> Response:
        _check_query(request, ("model", "top"))
        model = self._able(request, "classify")
        top = request.query_params.get("top", "5")
        if not (top.isascii() and top.isdigit() and int(top[:9]) > 0):
            raise RequestError(400, f"top must be a whole number of at least 1, not {top[:20]!r}")
        begin = time.monotonic()
        async with self._bodies.reading(request, self.limits.seconds) as body:
            files = await files_of(body, request, self.limits)
            if not files[0]:
                raise RequestError(400, "the body is empty: send the bytes of an image file")
            work = lambda: inference.classify(model, files, int(top[:9]), self.limits)  # noqa: E731
            answers = await self._timed(model, work, len(files), begin)
        found = {"images": answers} if is_form(request) else answers[0]
        return JSONResponse({"model": model.name, **found})

    async def _segment(self, request: Request) -> Response:
        _check_query(request, ("model", "format", "windows"))
        model, query = self._able(request, "segment"), request.query_params
        form, windows = query.get("format", inference.SEGMENT_FORMATS[0]), query.get("windows", "0")
        if form not in inference.SEGMENT_FORMATS:
            raise RequestError(400, f"format must be one of {', '.join(inference.SEGMENT_FORMATS)}, not {form[:20]!r}")
        if windows not in ("0", "1"):
            raise RequestError(400, f"windows must be 0 or 1, not {windows[:20]!r}")
        begin = time.monotonic()
        async with self._bodies.reading(request, self.limits.seconds) as body:
            files = await files_of(body, request, self.limits)
            if len(files) != 1 or not files[0]:
                raise RequestError(400, "send the bytes of one image file")
            work = lambda: inference.segment(model, files[0], form, windows == "1", self.limits)  # noqa: E731
            content, kind = await self._timed(model, work, 1, begin)
        return JSONResponse({"model": model.name, **content}) if kind is None else Response(content, media_type=kind)

    async def _run(self, request: Request, model: Model, work: Callable[[bytes], Any]) -> Any:
        begin = time.monotonic()
        async with self._bodies.reading(request, self.limits.seconds) as body:
            return await self._timed(model, lambda: work(body), 1, begin)

    async def _timed(self, model: Model, work: Callable[[], Any], images: int, begin: float) -> Any:
        """`work()` in the pool, within what is left of the time since `begin`."""

        def timed() -> Any:
            started = time.perf_counter()
            try:
                return work()
            finally:
                self.metrics.model_seconds.labels(model.name).observe(time.perf_counter() - started)

        answer = await self.pool.run(timed, max(0.001, self.limits.seconds - (time.monotonic() - begin)))
        self.metrics.images.labels(model.name).inc(images)
        return answer

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(document(sorted(self.models.all), self.limits))

    async def _docs(self, request: Request) -> Response:
        return HTMLResponse(page(document(sorted(self.models.all), self.limits)))


def _error(status: int, message: str) -> Response:
    return Response(json.dumps({"error": one_line(message)}), status, media_type="application/json")


def _check_query(request: Request, known: Sequence[str]) -> None:
    """Raise RequestError for parameters of a query that mean nothing, or are given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise RequestError(400, f"there is no parameter {shown(name[:50])}{nearest(name[:50], known)}")
        if names.count(name) > 1:
            raise RequestError(400, f"the parameter {name} is given {names.count(name)} times")
