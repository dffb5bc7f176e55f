"""Opens a connection and signs in: TLS or a refusal, one try of a password, then who we are.

imapclient connects and negotiates TLS, and signs in where a server cannot take the password with the command. After
that the copier speaks over the same socket itself: the library rewrites bare line ends, loses a whole answer to one
odd name, never looks at the status of MULTIAPPEND and cannot overlap commands.
"""

import ast
import base64
import contextlib
import re
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import imapclient
from imapclient.exceptions import CapabilityError, IMAPClientError, LoginError
from imapclient.imap4 import IMAP4WithTimeout
from imapclient.tls import IMAP4_TLS

from imapcopy import responses
from imapcopy.account import Account, Server
from imapcopy.answers import classify, classify_exception
from imapcopy.dialogue import THROW_AWAY, Dialogue
from imapcopy.errors import ConnectionLost, MemberError, MigrationError, Refused, ServerError, Side, error_of_reach

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""How long a server may say nothing while an answer is due."""
_BEYOND_THE_LIBRARY = (ValueError, ArithmeticError, MemoryError)
"""What the library lets out where an answer is no IMAP: numbers of a thousand digits, literals of an exabyte."""
IDENTITY = b'ID ("name" "Banjia")'


class _Greeted:
    """Takes the capabilities of the greeting where a server refuses to be asked for them before the login."""

    def _get_capabilities(self: Any) -> None:
        told = self.untagged_responses.get("CAPABILITY", [])
        in_greeting = tuple(told[-1].decode("latin-1").upper().split()) if told else ()
        try:
            super()._get_capabilities()  # type: ignore[misc]
        except self.abort:
            raise
        except self.error:
            if not in_greeting:
                raise
            self.capabilities = in_greeting
        if "IMAP4REV1" not in self.capabilities:
            # After a NO the library takes the server's words for its capabilities.
            self.capabilities = in_greeting or self.capabilities


class _TlsClient(_Greeted, IMAP4_TLS):  # type: ignore[misc]
    pass


class _PlainClient(_Greeted, IMAP4WithTimeout):  # type: ignore[misc]
    pass


class _Client(imapclient.IMAPClient):  # type: ignore[misc]
    def _create_IMAP4(self) -> Any:  # noqa: N802  (the library's name)
        if self.ssl:
            return _TlsClient(self.host, self.port, self.ssl_context, self._timeout.connect)
        return _PlainClient(self.host, self.port, self._timeout.connect)


def connect(account: Account, side: Side) -> Any:
    """The library's client, connected and, where it is to be, inside TLS."""
    server = account.server
    if server.security == "plain" and not (server.is_loopback or server.plain_allowed):
        raise MemberError("clear_text_refused", side, "", where=server.host)
    try:
        client = _Client(
            server.host,
            port=server.port,
            ssl=server.security == "tls",
            ssl_context=_tls_context(server) if server.security == "tls" else None,
            timeout=imapclient.SocketTimeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS),
        )
    except (OSError, IMAPClientError, *_BEYOND_THE_LIBRARY) as error:
        raise _connect_failed(error, account, side) from None
    # The library formats the repr of every literal at its default level, even with logging off.
    client._imap.debug = 0
    client.normalise_times = False
    try:
        if server.security == "starttls":
            client.starttls(_tls_context(server))
        # Without it each small command waits 40 ms for the server's delayed ACK.
        client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What this process leaves in the socket when it dies must not arrive: the next one looks up what did, and on a
        # slow line megabytes of mail would still come in while it looks, and after.
        client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, THROW_AWAY)
    except (OSError, IMAPClientError, *_BEYOND_THE_LIBRARY) as error:
        with contextlib.suppress(OSError, IMAPClientError):
            client.shutdown()
        raise _connect_failed(error, account, side) from None
    return client


def _connect_failed(error: Exception, account: Account, side: Side) -> MigrationError:
    text = account.redacted(_library_text(error))
    if isinstance(error, (OSError, UnicodeError)):
        found = classify_exception(error, stage="connect", side=side, host=account.server.host)
    elif isinstance(error, CapabilityError):
        # STARTTLS is not offered, or somebody on the way has taken it out: never go on in clear text.
        found = "tls_protocol"
    else:
        found = classify(text, stage="connect", side=side, host=account.server.host)
    kind = MemberError if found in {"tls_cert", "tls_protocol", "wrong_port", "starttls_required"} else ServerError
    return kind(found, side, text, where=f"{account.server.host}:{account.server.port}")


def sign_in(dialogue: Dialogue, client: Any) -> frozenset[str]:
    """Sign in, introduce ourselves, and return what the server offers after that."""
    account, side = dialogue.account, dialogue.side
    user, password = account.user, account.password
    if any(c in "\r\n\0" for c in user + password):
        raise MemberError("bad_credentials", side, "user name or password contains a control character")
    if client._imap.state == "AUTH":
        # It gives one mailbox to whoever connects, so all members would be brought the same one.
        raise MemberError(
            "no_sign_in", side, account.redacted(_library_text(client.welcome)), where=account.server.host
        )
    # The library has asked when it connected, and once more after STARTTLS.
    offered = frozenset(str(name).upper() for name in client._imap.capabilities)
    dialogue.hear_alert(_text(client.welcome).removeprefix("* "))
    by_library = partial(_by_library, dialogue)
    ways: list[Callable[[], str]] = [
        partial(_plain_at_once, dialogue) if "SASL-IR" in offered else partial(by_library, client.plain_login),
        partial(by_library, client.login),
    ]
    if "AUTH=PLAIN" not in offered:
        ways.reverse()
    failure: MigrationError | None = MemberError("auth_mechanism", side, "", where=account.server.host)
    told: frozenset[str] | None = None
    for number, way in enumerate(ways):
        try:
            told = _told_capabilities(way())
            failure = None
            break
        except UnicodeEncodeError:
            # LOGIN cannot carry it; the exception's own text would show the password.
            continue
        except Refused as refused:
            failure = _login_failed(dialogue, f"{refused.status} {refused.text}")
            if number or refused.status != "BAD":
                break
        except ConnectionLost as lost:
            failure = _login_failed(dialogue, lost.server_text, lost.cause_id)
            break
        except (LoginError, IMAPClientError) as error:
            failure = _login_failed(dialogue, _library_text(error))
            # BAD means "not this mechanism", NO means "not this password": only BAD may be tried otherwise.
            if number or " BAD [" not in f" {error}":
                break
        except OSError as error:
            failure = _login_failed(
                dialogue,
                _library_text(error),
                classify_exception(error, stage="login", side=side, host=account.server.host),
            )
            break
        except _BEYOND_THE_LIBRARY as error:
            failure = _login_failed(dialogue, f"unreadable answer ({type(error).__name__})", "connection_dropped")
            break
    if failure:
        # Raised out here, because the library's exception may quote the password and would stay its context.
        raise failure
    return _introduced(dialogue, offered, told)


def _by_library(dialogue: Dialogue, login: Callable[[str, str], object]) -> str:
    text = _text(login(dialogue.account.user, dialogue.account.password))
    dialogue.hear_alert(f"OK {text}")
    return text


def _plain_at_once(dialogue: Dialogue) -> str:
    """AUTHENTICATE PLAIN with the answer in the command (SASL-IR, RFC 4959): a round trip less."""
    answer = f"\0{dialogue.account.user}\0{dialogue.account.password}".encode()
    text, untagged = dialogue.collect(dialogue.send(b"AUTHENTICATE PLAIN " + base64.b64encode(answer)))
    # Dovecot tells its capabilities in the OK, or before it to a client that has asked already.
    told = [response.text for response in untagged if response.text.upper().startswith("CAPABILITY ")]
    return f"[{told[-1]}]" if told else text


def _login_failed(dialogue: Dialogue, text: str, found: str = "") -> MigrationError:
    account, side = dialogue.account, dialogue.side
    text = account.redacted(text)
    told = classify(text, stage="login", side=side, host=account.server.host)
    # A connection that ends without a word about the login says nothing about the password.
    found = found if found and told in {"unclassified", "ambiguous_login"} else told
    if found in {"timeout", "connection_dropped"}:
        return ServerError(found, side, text, where=account.user)
    return error_of_reach(found, side, text, where=account.user)


def _introduced(dialogue: Dialogue, offered: frozenset[str], told: frozenset[str] | None) -> frozenset[str]:
    """Learn what is offered after the login, if the login did not tell, and say who we are.

    NetEase and Coremail refuse SELECT until they have been told (ID, RFC 2971).
    """
    if told:
        if "ID" in told:
            dialogue.send_unawaited(IDENTITY)
        return told
    asked = dialogue.send(b"CAPABILITY")
    introduced = dialogue.send(IDENTITY) if "ID" in offered else None
    for response in dialogue.unless_refused(asked):
        offered = responses.capabilities(response.text) or offered
    if introduced is None and "ID" in offered:
        introduced = dialogue.send(IDENTITY)
    dialogue.unless_refused(introduced)
    return offered


def _text(answer: object) -> str:
    return answer.decode("latin-1") if isinstance(answer, bytes) else str(answer)


def _told_capabilities(text: str) -> frozenset[str] | None:
    """The capabilities that an answer to a login tells: `OK [CAPABILITY IMAP4rev1 ...] Logged in` (RFC 9051 7.1)."""
    match = re.match(r"\[(CAPABILITY [^\]]*)\]", text, re.IGNORECASE)
    return responses.capabilities(match[1]) if match else None


def _tls_context(server: Server) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.ca_file:
        context.load_verify_locations(server.ca_file)
    return context


def _library_text(error: BaseException | bytes) -> str:
    """The server's words out of the library's wrapping: `b'[AUTHENTICATIONFAILED] ...'`, `LOGIN command error: ...`."""
    text = str(error)
    match = re.search(r"b(['\"])(.*)\1", text, re.DOTALL)
    if not match:
        return text
    try:
        found = ast.literal_eval(match[0])
    except (SyntaxError, ValueError):
        return match[2]
    return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else match[2]
