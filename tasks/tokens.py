"""Access tokens for whole companies: Google's service accounts and Microsoft's applications, through their libraries.

A token is kept in this process until shortly before its end, for each member (Google) or for all (Microsoft), and got
anew when a server takes it no longer. No secret leaves this module but within a token.
"""

import json
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imapcopy.account import Token
from imapcopy.errors import MemberError, MigrationError, ServerError, Side
from imapcopy.redaction import redact
from models.columns import now
from models.private_files import NotPrivate, read_private

AHEAD_SECONDS = 300.0
"""So long before its end a token is replaced, or after four fifths of a life that is short."""
ANSWER_SECONDS = 30.0
KEPT_FOR_REDACTION = 4
# What Google says of a member who is none, among the many meanings of invalid_grant (as GAM lists them).
_NO_SUCH_MEMBER = re.compile(r"invalid email or user id|not a valid email|the account has been deleted", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Issued:
    """What an endpoint gave."""

    value: str = field(repr=False)
    seconds: float
    """How long it lasts."""


class NotIssued(Exception):
    """An endpoint gave no token. Its words, and those of this exception, may hold what it was sent."""

    def __init__(self, text: str, *, waiting_helps: bool) -> None:
        super().__init__("no token was issued")
        self.text = text
        self.waiting_helps = waiting_helps


Issue = Callable[[str], Issued]
"""Asks for a token for this member; NotIssued."""


@dataclass(slots=True)
class _Kept:
    """The newest token of a subject."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: str = ""
    replace_at: float = 0.0
    ends_at: float = 0.0
    shown: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_FOR_REDACTION))


class TokenSource:
    """Where a side's tokens come from, and those that are good now. `one_for_all`: the member is not named in them."""

    def __init__(
        self,
        issue: Issue,
        endpoint: str,
        *,
        one_for_all: bool = False,
        secrets: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issue = issue
        self.endpoint = endpoint
        self._one_for_all = one_for_all
        self._secrets = tuple(secrets)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def tokens(self, side: Side, user: str) -> "MemberTokens":
        """One member's tokens."""
        return MemberTokens(self, side, user)

    def kept(self, user: str) -> _Kept:
        with self._lock:
            return self._kept.setdefault("" if self._one_for_all else user, _Kept())

    def current(self, side: Side, user: str) -> Token:
        kept = self.kept(user)
        with kept.lock:
            if kept.value and self._clock() < kept.replace_at:
                return Token(kept.value)
            failure: MigrationError
            try:
                issued = self._issue(user)
            except NotIssued as refused:
                if kept.value and refused.waiting_helps and self._clock() < kept.ends_at:
                    return Token(kept.value)
                failure = self._failure(refused, side, user)
            else:
                kept.value = issued.value
                kept.ends_at = self._clock() + issued.seconds
                kept.replace_at = kept.ends_at - min(AHEAD_SECONDS, issued.seconds / 5)
                kept.shown.append(issued.value)
                return Token(issued.value, fresh=True)
        # Raised out here, because what the libraries raise may quote what they sent.
        raise failure

    def _failure(self, refused: NotIssued, side: Side, user: str) -> MigrationError:
        text = redact(refused.text, self._secrets)
        if refused.waiting_helps:
            return ServerError("token_unavailable", side, text, where=self.endpoint)
        found = "no_such_user" if _NO_SUCH_MEMBER.search(text) else "oauth_consent"
        return MemberError(found, side, text, where=user)

    def ended(self, user: str, token: Token) -> None:
        kept = self.kept(user)
        with kept.lock:
            if kept.value == token.value:
                kept.value = ""


@dataclass(frozen=True, slots=True)
class MemberTokens:
    """One member's tokens, as an Account asks for them."""

    source: TokenSource
    side: Side
    user: str

    def current(self) -> Token:
        return self.source.current(self.side, self.user)

    def ended(self, token: Token) -> None:
        self.source.ended(self.user, token)

    def issued(self) -> Iterable[str]:
        return tuple(self.source.kept(self.user).shown)


def google_tokens(key_file: Path, scope: str, endpoint: str = "", ca_file: Path | None = None) -> TokenSource:
    """Tokens of a service account with domain-wide delegation: it acts for the member who is its subject (RFC 7523)."""
    try:
        key = json.loads(read_private(key_file))
        if endpoint:
            key["token_uri"] = endpoint
        endpoint = str(key["token_uri"])
        key_id = str(key["private_key_id"])
    except NotPrivate as open_to_others:
        raise NotIssued(str(open_to_others), waiting_helps=False) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise NotIssued(f"{key_file} is no key of a service account", waiting_helps=False) from None
    _must_be_encrypted(endpoint)
    session = _session(ca_file)

    def issue(user: str) -> Issued:
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
        from google.auth.transport.requests import Request
        from google.oauth2.service_account import Credentials

        try:
            credentials: Any = Credentials.from_service_account_info(key, scopes=[scope], subject=user)  # type: ignore[no-untyped-call]
            credentials.refresh(Request(session))
        except TransportError as error:
            raise NotIssued(_network_words(error), waiting_helps=True) from None
        except RefreshError as error:
            raise NotIssued(str(error.args[0] if error.args else ""), waiting_helps=bool(error.retryable)) from None
        except (GoogleAuthError, ValueError, TypeError):
            raise NotIssued(f"{key_file} is no key of a service account", waiting_helps=False) from None
        return Issued(str(credentials.token), _seconds_until(credentials.expiry))

    return TokenSource(issue, endpoint, secrets=(str(key.get("private_key", "")), key_id))


def microsoft_tokens(
    tenant: str,
    client: str,
    scope: str,
    endpoint: str,
    *,
    secret: str = "",
    certificate: Path | None = None,
    ca_file: Path | None = None,
) -> TokenSource:
    """Tokens of an application (client credentials, RFC 6749 section 4.4): one opens every mailbox that it may open."""
    _must_be_encrypted(endpoint)
    credential: Any = _certificate(certificate) if certificate else secret
    authority = f"{endpoint.rstrip('/')}/{tenant}"
    session = _session(ca_file)
    opened: list[Any] = []

    def issue(_user: str) -> Issued:
        import msal
        import requests

        try:
            if not opened:
                # Which hosts are Microsoft's is asked of the public cloud, which other clouds need not reach.
                opened.append(
                    msal.ConfidentialClientApplication(
                        client,
                        client_credential=credential,
                        authority=authority,
                        instance_discovery=False,
                        http_client=session,
                    )
                )
            [application] = opened
            # It keeps tokens of its own; this one was asked for because those are of no more use.
            application.remove_tokens_for_client()
            answer = application.acquire_token_for_client([scope])
        except requests.exceptions.RequestException as error:
            raise NotIssued(_network_words(error), waiting_helps=True) from None
        except msal.exceptions.MsalError as error:
            # The endpoint itself failed (5xx).
            raise NotIssued(str(error), waiting_helps=True) from None
        except (ValueError, KeyError, TypeError) as error:
            # No such tenant, or a certificate that is none.
            raise NotIssued(f"{type(error).__name__}: {error}", waiting_helps=False) from None
        if "access_token" not in answer:
            words = f"{answer.get('error', '')}: {answer.get('error_description', '')}"
            busy = answer.get("error") in {"temporarily_unavailable", "server_error"}
            raise NotIssued(words, waiting_helps=busy)
        return Issued(str(answer["access_token"]), float(answer.get("expires_in", 0)))

    return TokenSource(issue, authority, one_for_all=True, secrets=(secret,))


def _must_be_encrypted(endpoint: str) -> None:
    if not endpoint.startswith("https://"):
        raise NotIssued(f"{endpoint} must begin with https://", waiting_helps=False)


def _certificate(file: Path) -> dict[str, str]:
    """Key and certificate out of one PEM file, as msal wants them."""
    try:
        text = read_private(file).decode()
    except (NotPrivate, OSError, UnicodeDecodeError) as error:
        raise NotIssued(str(error), waiting_helps=False) from None
    blocks = {match[1]: match[0] for match in _PEM.finditer(text)}
    key = next((pem for name, pem in blocks.items() if name.endswith("PRIVATE KEY")), "")
    if not key or "CERTIFICATE" not in blocks:
        raise NotIssued(f"{file} must hold a private key and its certificate (PEM)", waiting_helps=False)
    return {"private_key": key, "public_certificate": blocks["CERTIFICATE"]}


def _session(ca_file: Path | None) -> Any:
    """An HTTP session with a deadline, which trusts a private authority beside the public ones."""
    import requests
    from requests.adapters import HTTPAdapter

    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> Any:
            return super().init_poolmanager(*arguments, **{**named, "ssl_context": context})

        def send(self, request: Any, **named: Any) -> Any:  # type: ignore[override]
            return super().send(request, **{**named, "timeout": named.get("timeout") or ANSWER_SECONDS})

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> str | None:
            # It would be sent what signs in for everybody; no vendor's endpoint sends anybody elsewhere.
            if super().get_redirect_target(resp):
                resp.close()
                raise requests.TooManyRedirects("the token endpoint sends to another address, which is not followed")
            return None

    session = Session()
    session.mount("https://", Adapter())
    return session


def _network_words(error: BaseException) -> str:
    """What went wrong on the way, without what was sent: the innermost reason."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__


def _seconds_until(expiry: datetime) -> float:
    return (expiry.replace(tzinfo=UTC) - now()).total_seconds()
