"""Our own Prefect server as a program meets it that knows its folder: nothing of Banjia is imported."""

import base64
import json
import ssl
import urllib.parse
import urllib.request
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any


class PrefectApi:
    """The API of the server whose files lie in `folder`; follows it when it returns on another port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client = str(uuid.uuid4())

    @property
    def noted(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self._folder / "server.json").read_text())
        return document

    @property
    def url(self) -> str:
        return str(self.noted["url"])

    @property
    def secret(self) -> str:
        return (self._folder / "server_secret").read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        """For a program that is to use this server as an admin's own."""
        return {
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": self.secret,
            "PREFECT_API_SSL_CERT_FILE": str(self._folder / "server_certificate.pem"),
        }

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """The answer of the route, as JSON; with a `body` it is POSTed, with the token that a change needs."""
        headers = {"Authorization": f"Basic {base64.b64encode(self.secret.encode()).decode()}"}
        if body is not None:
            token = self.ask(f"csrf-token?client={self._client}")["token"]
            headers |= {"Content-Type": "application/json"}
            headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": self._client}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=120, context=self._context) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._folder / "server_certificate.pem"))
