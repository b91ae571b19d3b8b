"""The web application of the page: files of the page, the runs, and predictions on uploads."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from backbones.common.files import JsonObject
from backbones.errors import UserError
from tools.viewer.answers import ShownRun
from tools.viewer.uploads import UploadError, decode, limited

TEMPLATES = Path(__file__).with_name("templates")
FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
# A browser sends this header only from the page itself, so that other web pages cannot use the server.
OWN_HEADER = "x-resnet-transfer"
MOST_WAITING = 8  # predictions at the same time, waiting ones included
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def build_app(runs: Sequence[ShownRun], *, hosts: Sequence[str]) -> Starlette:
    """Return the application.

    Args:
        runs: the runs to show, side by side.
        hosts: names under which the server may be asked, without port; ["*"] for any.
    """
    limiter, waiting = CapacityLimiter(1), [0]

    async def describe(request: Request) -> Response:
        return _json({"runs": [run.describe() for run in runs]})

    async def answer(request: Request, use: Callable[[ShownRun, bytes], JsonObject]) -> Response:
        if request.headers.get(OWN_HEADER) is None:
            return _json({"error": "Use the page."}, 403)
        number = request.path_params["number"]
        if not 0 <= number < len(runs):
            return _json({"error": "There is no such run."}, 404)
        if waiting[0] >= MOST_WAITING:
            return _json({"error": "The server is busy; try again."}, 503)
        waiting[0] += 1
        try:
            content = await limited(request.stream(), request.headers.get("content-length"))
            return _json(await to_thread.run_sync(use, runs[number], content, limiter=limiter))
        except UploadError as error:
            return _json({"error": str(error)}, error.status)
        finally:
            waiting[0] -= 1

    async def predict(request: Request) -> Response:
        return await answer(request, _answer)

    async def explain(request: Request) -> Response:
        box, name = _box(request.query_params.get("box", "")), request.query_params.get("name", "")
        if box is None:
            return _json({"error": "The address names no box."}, 400)
        return await answer(request, partial(_explain, box=box, name=name))

    routes = [Route(path, _file(name)) for path, name in FILES.items()]
    routes += [
        Route("/runs", describe),
        Route("/runs/{number:int}/predict", predict, methods=["POST"]),
        Route("/runs/{number:int}/explain", explain, methods=["POST"]),
    ]
    allowed = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return Starlette(routes=routes, middleware=[allowed], exception_handlers={Exception: _failed})


def _answer(run: ShownRun, content: bytes) -> JsonObject:
    try:
        return run.answer(decode(content))
    except UserError as error:
        raise UploadError(f"The model cannot use this image: {error}", 422) from None


def _explain(run: ShownRun, content: bytes, *, box: Sequence[float], name: str) -> JsonObject:
    try:
        return run.explain(decode(content), box, name)
    except UserError as error:
        raise UploadError(f"This detection cannot be explained: {error}", 422) from None


def _box(text: str) -> list[float] | None:
    """Return the four finite numbers of a text such as "1,2.5,30,40"; None for any other text."""
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return FileResponse(TEMPLATES / name, headers=SECURITY)

    return send


def _json(content: JsonObject, status: int = 200) -> Response:
    return JSONResponse(content, status, headers=SECURITY)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer an unexpected error without its text, which may hold paths; the terminal shows it."""
    logging.getLogger("uvicorn.error").exception("a request failed", exc_info=error)
    return _json({"error": "The server failed; its terminal says why."}, 500)
