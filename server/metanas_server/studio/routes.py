"""The routes: the page, its files and the JSON API; `static/openapi.json` describes the API."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from metanas.errors import MetanasError
from metanas_server.api.interceptors import LEFT, failure_of
from metanas_server.callers.access import Caller, Callers
from metanas_server.callers.audit import OK, AuditLog
from metanas_server.studio.convert import parse_variant
from metanas_server.studio.engine import StudioEngine
from metanas_server.studio.guard import failure_json, http_status
from metanas_server.studio.observer import LEFT as LEFT_STATUS
from metanas_server.studio.observer import address_of
from metanas_server.studio.take_home import take_home

STATIC = Path(__file__).parent / "static"
RUNTIME = "onnxruntime-web-1.30.0"
"""Folder of the runtime; its name changes with the release, so browsers may keep its files."""
WASM = "ort-wasm-simd-threaded.wasm"
FOREVER = {"cache-control": "public, max-age=31536000, immutable"}
QUIET_SECONDS = 15.0
"""Seconds without an event after which a comment keeps the connection open."""

Endpoint = Callable[[Request], Awaitable[Response]]
SERVICES = "/metanas.v1."


def make_app(engine: StudioEngine, callers: Callers, audit: AuditLog | None) -> Starlette:
    """Return the application. Each route of the API does what one call of gRPC does."""
    api, door = _Api(engine), _Door(callers, audit)

    def route(path: str, endpoint: Endpoint, call: str, method: str = "GET") -> Route:
        return Route(f"/api/{path}", door.let_in(endpoint, SERVICES + call), methods=[method])

    adaptation, model = "AdaptationService/", "ModelService/"
    return Starlette(
        routes=[
            route("server", api.server, "CheckpointService/ListCheckpoints"),
            route("adaptations", api.create, f"{adaptation}CreateAdaptation", "POST"),
            route("adaptations/{id}", api.adaptation, f"{adaptation}GetAdaptation"),
            route("adaptations/{id}/events", api.events, f"{adaptation}WatchAdaptation"),
            route("adaptations/{id}/cancel", api.cancel, f"{adaptation}CancelAdaptation", "POST"),
            route("models/{id}", api.model, f"{model}GetModel"),
            route("models/{id}/model.onnx", api.file, f"{model}DownloadModel"),
            route("models/{id}/model.zip", api.archive, f"{model}DownloadModel"),
            Route("/", _page),
            Route(f"/static/{RUNTIME}/{WASM}", _runtime),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
    )


class _Door:
    """Identify callers, answer errors as JSON, and write the audit log, as over gRPC."""

    def __init__(self, callers: Callers, audit: AuditLog | None) -> None:
        self._callers = callers
        self._audit = audit

    def let_in(self, endpoint: Endpoint, call: str) -> Endpoint:
        """Return an endpoint for callers who may make this call of gRPC."""

        async def answer(request: Request) -> Response:
            host, result = address_of(request.scope), LEFT
            request.state.made = _resource(request)
            caller: Caller | None = None
            try:
                sent = request.headers.get("authorization", "").encode()
                caller = request.state.caller = self._callers.identify(host, sent)
                caller.require_for(call)
                request.state.admit = partial(self._admit, host, sent, call)
                response = await endpoint(request)
            except ClientDisconnect:
                return Response(status_code=LEFT_STATUS)
            except Exception as error:
                failure = failure_of(error)
                text, status = failure_json(failure), http_status(failure)
                result = request.state.reason = failure.reason
                return Response(text, status_code=status, media_type="application/json")
            else:
                result = OK
                return response
            finally:
                if self._audit is not None:
                    self._audit.write(
                        caller="" if caller is None else caller.name,
                        address=host,
                        method=call,
                        resource=request.state.made,
                        result=result,
                    )

        return answer

    def _admit(self, host: str, sent: bytes, call: str) -> None:
        """Refuse the next message of a long answer if the token was revoked."""
        self._callers.identify(host, sent).require_for(call)


class _Api:
    """The endpoints of the API."""

    def __init__(self, engine: StudioEngine) -> None:
        self._engine = engine

    async def server(self, _: Request) -> Response:
        return JSONResponse(self._engine.describe())

    async def create(self, request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        chunks, caller = request.stream(), request.state.caller
        created = await self._engine.create(content_type, chunks, caller)
        request.state.made = created["name"]
        return JSONResponse(created, status_code=201)

    async def adaptation(self, request: Request) -> Response:
        return JSONResponse(await self._engine.adaptation(*_named(request)))

    async def cancel(self, request: Request) -> Response:
        return JSONResponse(await self._engine.cancel(*_named(request)))

    async def events(self, request: Request) -> Response:
        id_, caller = _named(request)
        # an unknown one is an answer of its own, not an event
        await self._engine.adaptation(id_, caller)
        last = request.query_params.get("after") or request.headers.get("last-event-id", "0")
        after = int(last) if last.isdecimal() else 0
        stream = _event_stream(self._engine.events(id_, caller, after), request.state)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def model(self, request: Request) -> Response:
        return JSONResponse(await self._engine.model(*_named(request)))

    async def file(self, request: Request) -> Response:
        record = await self._engine.record(*_named(request))
        variant = parse_variant(request.query_params)
        data = await self._engine.file(record, variant, request.state.caller)
        return Response(data, media_type="application/octet-stream", headers=_saved("model.onnx"))

    async def archive(self, request: Request) -> Response:
        record = await self._engine.record(*_named(request))
        data = await self._engine.file(record, None, request.state.caller)
        packed = await asyncio.to_thread(take_home, record, data, STATIC / RUNTIME)
        return Response(packed, media_type="application/zip", headers=_saved("model.zip"))


def _named(request: Request) -> tuple[str, Caller]:
    """Return the id in the path, and the caller."""
    return request.path_params["id"], request.state.caller


def _resource(request: Request) -> str:
    """Return the name of the resource in the path, as gRPC has it; empty for none."""
    collection = request.url.path.removeprefix("/api/").partition("/")[0]
    return f"{collection}/{request.path_params['id']}" if "id" in request.path_params else ""


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _runtime(_: Request) -> Response:
    """Answer the WebAssembly of the runtime, which is stored compressed."""
    headers = {"content-encoding": "gzip", **FOREVER}
    path = STATIC / RUNTIME / f"{WASM}.gz"
    return FileResponse(path, media_type="application/wasm", headers=headers)


async def _event_stream(events: AsyncIterator[tuple[str, Any]], state: State) -> AsyncIterator[str]:
    """Yield server-sent events; a comment breaks a long silence, an error is the last event.

    state: of the request. Its `admit` raises an error if the caller may not see more events.
    """
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait((following,), timeout=QUIET_SECONDS)
            if not done:
                yield ": still here\n\n"
                continue
            event = following.result()
            if event is None:
                return
            state.admit()
            yield _event(*event)
            following = asyncio.ensure_future(anext(events, None))
    except MetanasError as error:
        state.reason = error.reason
        yield f"event: error\ndata: {failure_json(failure_of(error))}\n\n"
    finally:
        following.cancel()


def _event(name: str, fields: dict[str, Any]) -> str:
    number = f"id: {fields['sequence']}\n" if name == "progress" else ""
    return f"{number}event: {name}\ndata: {json.dumps(fields)}\n\n"


def _saved(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
