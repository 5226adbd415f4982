"""The page's server: of this machine alone, without a network, a cookie or a copy kept.

It listens at 127.0.0.1 and answers only requests that name this machine, so that no page of another
site can ask it in a visitor's name.
"""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from PIL import Image
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffground.config import refused
from diffground.errors import InputError
from diffground.page.asking import Asking, Question
from diffground.page.samples import sample

HOST: Final = "127.0.0.1"
_LARGEST: Final = 64 * 2**20  # bytes of a question
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


def application(asking: Asking) -> Starlette:
    """The page over some models."""
    routes = [
        *(Route(path, partial(_file, *content)) for path, content in _FILES.items()),
        Route("/samples/{index:int}.png", _sample),
        Route("/choices", partial(_choices, asking)),
        Route("/ground", partial(_ground, asking), methods=["POST"]),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[trusted])


def serve(asking: Asking, port: int, ready: Callable[[str], object]) -> None:
    """Answers until it is interrupted.

    Args:
        port: 0 takes one that is free.
        ready: told the page's address.

    Raises:
        InputError: the port is taken.
    """
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # before the address is told: who is quick waits for the server
        except (OSError, OverflowError) as error:
            reason = f"cannot be listened at ({error}); name another, or 0 for a free one"
            raise InputError("--port", str(port), reason) from error
        ready(f"http://{HOST}:{listening.getsockname()[1]}/")
        settings = uvicorn.Config(application(asking), log_level="warning", lifespan="off")
        uvicorn.Server(settings).run(sockets=[listening])


async def _file(name: str, kind: str, request: Request) -> Response:
    content = Path(__file__).with_name(name).read_bytes()
    return Response(content, media_type=kind, headers={"Content-Security-Policy": _POLICY})


async def _sample(request: Request) -> Response:
    try:
        found = await run_in_threadpool(sample, request.path_params["index"])
    except InputError as error:
        return _error(error)
    content = io.BytesIO()
    Image.fromarray(found.image).save(content, "PNG")
    return Response(content.getvalue(), media_type="image/png")


async def _choices(asking: Asking, request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(asking.choices))


async def _ground(asking: Asking, request: Request) -> Response:
    # A page of another site cannot send this type without asking first, which is not answered.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return _error(InputError("question", "type", "it must be application/json"), 415)
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _LARGEST:
            return _error(InputError("picture", "size", "the file has more than 48 MB"), 413)
    try:
        question = _question(bytes(content))
        return JSONResponse(await run_in_threadpool(asking.answer, question))
    except InputError as error:
        return _error(error)


def _question(content: bytes) -> Question:
    try:
        given: Any = json.loads(content)
        return Question.model_validate(given)
    except ValidationError as error:
        raise refused("question", error) from error
    except (ValueError, RecursionError) as error:
        raise InputError("question", "JSON", "it cannot be read") from error


def _error(error: InputError, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": f"{error.field}: {error.reason}"}, status)
