"""A stand-in for the webhooks of group chats on loopback: keeps what it is sent, answers as documented."""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers.loopback import serving

ACCEPTED = {
    "/open-apis/bot/v2/hook/": {"StatusCode": 0, "StatusMessage": "success", "code": 0, "data": {}, "msg": "success"},
    "/robot/send": {"errcode": 0, "errmsg": "ok"},
    "/cgi-bin/webhook/send": {"errcode": 0, "errmsg": "ok"},
}
HANG_UP = object()


@dataclass
class Received:
    path: str
    query: dict[str, str]
    body: dict[str, Any]


@dataclass
class ChatRoom:
    """All the chats of one test."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    instead: deque[object] = field(default_factory=deque)
    """Answers to the next messages: a status and a document (or octets), HANG_UP, or what is called to give one."""

    def answer(self, path: str) -> tuple[int, bytes] | None:
        if self.instead:
            said = self.instead.popleft()
            said = said() if callable(said) else said
            if said is HANG_UP:
                return None
            assert isinstance(said, tuple)
            status, content = said
            return status, content if isinstance(content, bytes) else json.dumps(content).encode()
        document = next((each for begin, each in ACCEPTED.items() if path.startswith(begin)), {})
        return 200, json.dumps(document).encode()


@contextmanager
def running_chats() -> Iterator[ChatRoom]:
    room = ChatRoom()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            room.received.append(Received(parts.path, query, body))
            said = room.answer(parts.path)
            if said is None:
                self.close_connection = True
                return
            self.send_response(said[0])
            self.send_header("Content-Length", str(len(said[1])))
            self.end_headers()
            self.wfile.write(said[1])

        def log_message(self, *_: object) -> None:
            return

    with serving(Handler) as room.url:
        yield room
