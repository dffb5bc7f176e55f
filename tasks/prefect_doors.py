"""The process of our own Prefect server: Prefect's application behind two doors on this machine.

Programs come over TLS and prove themselves with the secret. Browsers come over plain HTTP, because they would not know
the certificate, with a password that is void once this process has ended. Neither lets a page of another origin in.
Run as `python -m tasks.prefect_doors FOLDER PORT PAGES_PORT`.
"""

import asyncio
import base64
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from tasks.prefect_access import HOST, LOGIN, SIGN_IN, new_pages_password, read_access, same

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Prefect's own description of its API loads scripts from elsewhere, in the origin that holds the password.
_CLOSED = ("/docs", "/redoc", "/openapi.json")
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_SAFEGUARDS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# What stands after # in a link is not sent to anybody, and is not in the history afterwards.
_SIGN_IN_PAGE = f"""<!doctype html><meta charset="utf-8"><title>Prefect</title>
<noscript>Prefect 的页面需要 JavaScript。 Prefect's pages need JavaScript.</noscript>
<script>
const password = location.hash.slice(1);
history.replaceState(null, "", "{SIGN_IN}");
localStorage.setItem("prefect-password", btoa("{LOGIN}:" + password));
location.replace("/");
</script>
""".encode()


def programs(application: Application, port: int) -> Application:
    """The door of programs: the API alone, and for nobody who comes from a page."""

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await application(scope, receive, send)
        elif not scope["path"].startswith("/api/"):
            await _refuse(scope, receive, send, 404)
        elif _header(scope, b"origin") is not None or _header(scope, b"host") != f"{HOST}:{port}":
            await _refuse(scope, receive, send, 403)
        else:
            await application(scope, receive, send)

    return door


def pages(application: Application, port: int, password: str, secret: str) -> Application:
    """The door of browsers: requests of our own origin, whose password is exchanged for the secret."""
    wanted, given = (f"Basic {base64.b64encode(each.encode()).decode()}" for each in (f"{LOGIN}:{password}", secret))

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        own = f"{HOST}:{port}"
        # A name of somebody else's that leads here has another Host; a page of somebody else's another Origin.
        if _header(scope, b"host") != own or _header(scope, b"origin") not in (None, f"http://{own}"):
            return await _refuse(scope, receive, send, 403)
        if scope["type"] == "websocket" or scope["path"].startswith(_CLOSED):
            return await _refuse(scope, receive, send, 404)
        if scope["path"] == SIGN_IN:
            return await _answer(send, 200, b"text/html; charset=utf-8", _SIGN_IN_PAGE)
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        if same(_header(scope, b"authorization") or "", wanted):
            headers.append((b"authorization", given.encode()))
        return await application({**scope, "headers": headers}, receive, _guarded(send))

    return door


def _header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; of one that comes twice, all values, which equal nothing that is wanted."""
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return ", ".join(found) if found else None


def _guarded(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_SAFEGUARDS]}
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, status, b"text/plain; charset=utf-8", b"")


async def _answer(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"cache-control", b"no-store"), *_SAFEGUARDS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(folder: Path, port: int, pages_port: int) -> None:
    """Open both doors, until a signal ends the process."""
    access = read_access(folder)
    password = new_pages_password(folder)
    # Read here and not handed over: it is in no environment that another process could ask for.
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = access.secret
    from prefect.server.api.server import create_app

    application: Application = create_app(final=True)
    for_programs = uvicorn.Config(
        programs(application, port),
        host=HOST,
        port=port,
        ssl_certfile=access.certificate,
        ssl_keyfile=str(access.key),
        log_level="warning",
        server_header=False,
    )
    for_browsers = uvicorn.Config(
        pages(application, pages_port, password, access.secret),
        host=HOST,
        port=pages_port,
        lifespan="off",
        log_level="warning",
        server_header=False,
    )
    asyncio.run(_both(uvicorn.Server(for_programs), uvicorn.Server(for_browsers)))


async def _both(first: uvicorn.Server, second: uvicorn.Server) -> None:
    """The first has Prefect's services with it. A signal goes to the second, which hands it on when it has ended."""
    serving = asyncio.create_task(first.serve())
    while not first.started and not serving.done():
        await asyncio.sleep(0.05)

    def end_second(_: object) -> None:
        second.should_exit = True

    serving.add_done_callback(end_second)
    if not serving.done():
        await second.serve()
    first.should_exit = True
    await serving


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
