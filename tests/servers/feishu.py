"""A stand-in for Feishu's open platform on loopback: tokens and `mail/v1/users/query`, in the documented shapes."""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.loopback import serving

APP_ID, APP_SECRET = "cli_canary0000", "canary-app-secret,1"
TOKEN_PATH = "/open-apis/auth/v3/tenant_access_token/internal"
QUERY_PATH = "/open-apis/mail/v1/users/query"

Reply = tuple[int, Any, dict[str, str]]


@dataclass
class OpenPlatform:
    """What it knows, what it was asked, and what it says instead."""

    url: str = ""
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Status and type by address, as documented."""
    malformed: set[str] = field(default_factory=set)
    most: int = 1000
    """Addresses that it takes in one request."""
    told: int = 1000
    """Addresses that it tells of in one answer; of the others it says nothing."""
    instead: deque[Reply] = field(default_factory=deque)
    """Answers to the next queries."""
    tokens_taken: set[str] = field(default_factory=set)
    tokens: int = 0
    token_reply: Reply | None = None
    queries: list[list[str]] = field(default_factory=list)

    def answer(self, path: str, body: dict[str, Any], authorization: str) -> Reply:
        if path == TOKEN_PATH:
            return self._token(body)
        if path != QUERY_PATH:
            return 404, {"code": 404, "msg": "not found"}, {}
        self.queries.append(body["email_list"])
        if self.instead:
            return self.instead.popleft()
        if authorization.removeprefix("Bearer ") not in self.tokens_taken:
            return 400, {"code": 99991663, "msg": "Invalid access token for authorization."}, {}
        asked = body["email_list"]
        if len(asked) > self.most or self.malformed & set(asked):
            return 400, {"code": 1230001, "msg": "param is invalis"}, {}
        users = []
        for email in asked[: self.told]:
            status, kind = self.known.get(email, (3, 0))
            users.append({"email": email.lower(), "status": status, "type": kind})
        return 200, {"code": 0, "msg": "success", "data": {"user_list": users}}, {}

    def _token(self, body: dict[str, Any]) -> Reply:
        if self.token_reply:
            return self.token_reply
        if body != {"app_id": APP_ID, "app_secret": APP_SECRET}:
            return 200, {"code": 10014, "msg": "app secret invalid"}, {}
        self.tokens += 1
        token = f"t-canary-token-{self.tokens}"
        self.tokens_taken.add(token)
        return 200, {"code": 0, "msg": "ok", "tenant_access_token": token, "expire": 7200}, {}


def refusal(code: int, msg: str = "refused", status: int = 400, **headers: str) -> Reply:
    return status, {"code": code, "msg": msg}, {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def running_platform() -> Iterator[OpenPlatform]:
    platform = OpenPlatform()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content, headers = platform.answer(self.path, body, self.headers.get("Authorization", ""))
            encoded = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json; charset=utf-8", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: object) -> None:
            return

    with serving(Handler) as platform.url:
        yield platform
