"""An authorization server on loopback that speaks what Google and Microsoft publish of theirs, over TLS.

Google: JWT bearer assertions of a service account (RFC 7523), signed with its key, for a subject. Microsoft: client
credentials (RFC 6749 section 4.4) with a secret or a signed assertion, after a look at the tenant's configuration.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers.certificates import Authority

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"
"""What an assertion is for, wherever it is sent."""
SERVICE_ACCOUNT = "mover@company-1.iam.gserviceaccount.example"
KEY_ID = "canary-key-id-0123456789"
TENANT = "6f0c1b2a-0000-4000-8000-000000000001"
CLIENT = "9a8b7c6d-0000-4000-8000-000000000002"
CLIENT_SECRET = "8Q~Canary.Xw4vTz-mJ9"


@dataclass
class Refusal:
    """An error in the vendors' form, in place of a token."""

    error: str
    description: str = ""
    status: int = 400


@dataclass
class TokenEndpoint:
    """`issue` makes the tokens: of Google's for a member, of Microsoft's for "", everybody."""

    issue: Callable[[str], str]
    lifetime: int = 3599
    refusals: list[Refusal] = field(default_factory=list)
    """Answers to the next requests for a token, the first one first."""
    refused: dict[str, Refusal] = field(default_factory=dict)
    """By subject: who gets no token any more."""
    subjects: list[str] = field(default_factory=list)
    """For whom tokens were issued."""
    asked: list[dict[str, str]] = field(default_factory=list)
    sends_to: str = ""
    """Where requests for a token are redirected to."""
    port: int = 0
    _key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    certificate_key: Any = None
    """The public key of the certificate that signs a Microsoft application's assertions."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def private_key(self) -> str:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def write_service_account(self, file: Path) -> Path:
        """The key file that Google gives for a service account."""
        file.touch(mode=0o600)
        file.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": "company-1",
                    "private_key_id": KEY_ID,
                    "private_key": self.private_key,
                    "client_email": SERVICE_ACCOUNT,
                    "client_id": "100000000000000000001",
                    "token_uri": f"{self.url}/token",
                }
            )
        )
        file.chmod(0o600)
        return file

    # The two protocols

    def google(self, form: dict[str, str]) -> dict[str, Any] | Refusal:
        if form.get("grant_type") != JWT_BEARER:
            return Refusal("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
        try:
            claims = jwt.decode(
                form["assertion"], self._key.public_key(), algorithms=["RS256"], audience=GOOGLE_AUDIENCE
            )
        except (jwt.InvalidTokenError, KeyError):
            return Refusal("invalid_grant", "Invalid JWT Signature.")
        if claims["iss"] != SERVICE_ACCOUNT or claims["scope"] != "https://mail.google.com/":
            return Refusal(
                "unauthorized_client",
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any "
                "of the scopes requested.",
                401,
            )
        if claims["exp"] - claims["iat"] > 3600 or claims["exp"] < time.time():
            return Refusal("invalid_grant", "Invalid JWT: Token must be a short-lived token.")
        return self._token(str(claims["sub"]))

    def microsoft(self, form: dict[str, str]) -> dict[str, Any] | Refusal:
        if form.get("grant_type") != "client_credentials" or form.get("client_id") != CLIENT:
            return Refusal("unauthorized_client", "AADSTS700016: Application was not found in the directory.")
        if form.get("client_assertion_type") == CLIENT_ASSERTION:
            try:
                audience = f"{self.url}/{TENANT}/oauth2/v2.0/token"
                jwt.decode(
                    form["client_assertion"], self.certificate_key, algorithms=["PS256", "RS256"], audience=audience
                )
            except jwt.InvalidTokenError:
                return Refusal("invalid_client", "AADSTS700027: The certificate's signature is not valid.", 401)
        elif form.get("client_secret") != CLIENT_SECRET:
            return Refusal("invalid_client", "AADSTS7000215: Invalid client secret provided.", 401)
        if "https://outlook.office365.com/.default" not in form.get("scope", "").split():
            return Refusal("invalid_scope", "AADSTS70011: The provided value for scope is not valid.")
        return self._token("")

    def refuse(self, subject: str, refusal: Refusal) -> None:
        """Issue no token for a subject from now on; the one under way still is."""
        self.refused[subject] = refusal

    def _token(self, subject: str) -> dict[str, Any] | Refusal:
        if subject in self.refused:
            return self.refused[subject]
        self.subjects.append(subject)
        return {"token_type": "Bearer", "expires_in": self.lifetime, "access_token": self.issue(subject)}

    def configuration(self) -> dict[str, Any]:
        """What is published of the tenant (OpenID Connect Discovery 1.0)."""
        tenant = f"{self.url}/{TENANT}"
        return {
            "issuer": f"{tenant}/v2.0",
            "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
            "token_endpoint": f"{tenant}/oauth2/v2.0/token",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: TokenEndpoint

    def do_GET(self) -> None:
        if self.path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            self._answer(200, self.endpoint.configuration())
        else:
            self._answer(400, {"error": "invalid_tenant", "error_description": "AADSTS90002: Tenant not found."})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.endpoint.asked.append(form)
        if self.endpoint.sends_to:
            self.send_response(307)
            self.send_header("Location", self.endpoint.sends_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.endpoint.refusals:
            answer: dict[str, Any] | Refusal = self.endpoint.refusals.pop(0)
        elif self.path == "/token":
            answer = self.endpoint.google(form)
        elif self.path == f"/{TENANT}/oauth2/v2.0/token":
            answer = self.endpoint.microsoft(form)
        else:
            answer = Refusal("invalid_request", "no such path", 404)
        if isinstance(answer, Refusal):
            self._answer(answer.status, {"error": answer.error, "error_description": answer.description})
        else:
            self._answer(200, answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
        return

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or does not trust the certificate, is its own business."""


@contextmanager
def token_endpoint(issue: Callable[[str], str], authority: Authority, directory: Path) -> Iterator[TokenEndpoint]:
    """Serve until the block ends, with a certificate of that authority for 127.0.0.1."""
    endpoint = TokenEndpoint(issue)
    certificate = authority.issue()
    pem = directory / "token-endpoint.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(certificate.chain + certificate.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"endpoint": endpoint}))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    endpoint.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
