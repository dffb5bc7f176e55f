"""Opens a connection and signs in: TLS or a refusal, one try of a password, then who we are.

imapclient connects and negotiates TLS. After that the copier speaks over the same socket itself: the library rewrites
bare line ends, loses a whole answer to one odd name, never looks at the status of MULTIAPPEND, cannot overlap commands,
and answers a refused token with the token.
"""

import ast
import base64
import contextlib
import re
import socket
import ssl
from typing import Any

import imapclient
from imapclient.exceptions import CapabilityError, IMAPClientError
from imapclient.imap4 import IMAP4WithTimeout
from imapclient.tls import IMAP4_TLS

from imapcopy import refused_login, responses
from imapcopy.account import Account, Server, Token
from imapcopy.answers import judge, judge_exception
from imapcopy.dialogue import MAX_COLLECTED_BYTES, THROW_AWAY, Dialogue
from imapcopy.errors import ConnectionLost, MemberError, MigrationError, Refused, ServerError, Side, error_of_reach
from imapcopy.mechanisms import (
    acknowledgement,
    login_command,
    mechanisms,
    named_in_one,
    sasl_response,
    template_for,
    told_in,
)
from imapcopy.refused_login import login_hint, template_hint
from imapcopy.unconnected import hint_of
from imapcopy.wire import Deadline
from models.providers import provider_at
from models.server_words import KnownBy

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""How long a server may say nothing while an answer is due."""
_BEYOND_THE_LIBRARY = (ValueError, ArithmeticError, MemoryError)
"""What the library lets out where an answer is no IMAP: numbers of a thousand digits, literals of an exabyte."""
IDENTITY = b'ID ("name" "Banjia")'
_OF_THE_PASSWORD = frozenset({"bad_credentials", "ambiguous_login", "app_password_required"})
_OF_THE_TEMPLATE = frozenset({"admin_refused", "auth_mechanism"})
"""Causes that may lie in how an administrator and a member are named."""
_OF_THE_TOKEN = _OF_THE_PASSWORD | {"token_expired", "oauth_consent", "oauth_required"}
"""Causes that another token may cure, where this one is not new."""


class TokenEnded(Exception):
    """The server does not take the token, and it is not the newest: another one may open, over another connection."""


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
    said, host = _library_text(error), account.server.host
    text, known_by = account.redacted(said), ""
    if isinstance(error, (OSError, UnicodeError)):
        found = judge_exception(error, stage="connect", side=side, host=host).cause
    elif isinstance(error, CapabilityError):
        # STARTTLS is not offered, or somebody on the way has taken it out: never go on in clear text.
        found = "tls_protocol"
    else:
        told = judge(said, stage="greeting", side=side, host=host)
        found, known_by = told.cause, str(KnownBy("greeting", told.rule))
    kind = MemberError if found in {"tls_cert", "tls_protocol", "wrong_port", "starttls_required"} else ServerError
    hint = hint_of(found, error, text, account.server)
    return kind(found, side, text, where=f"{host}:{account.server.port}", hint=hint, known_by=known_by)


def sign_in(dialogue: Dialogue, client: Any) -> frozenset[str]:
    """Sign in, introduce ourselves, and return what the server offers after that; TokenEnded asks for another try."""
    account, side = dialogue.account, dialogue.side
    if any(c in "\r\n\0" for c in account.user + account.login + account.password):
        raise MemberError("bad_credentials", side, "user name or password contains a control character")
    if client._imap.state == "AUTH":
        # It gives one mailbox to whoever connects, so all members would be brought the same one.
        raise MemberError(
            "no_sign_in", side, account.redacted(_library_text(client.welcome)), where=account.server.host
        )
    if account.is_the_admins and account.ways.is_given_up(account.server, account.password):
        # One account signs in for all: a wrong password must not be tried once for each of them.
        raise MemberError("admin_refused", side, "not tried again in this run", where=account.user)
    # The library has asked when it connected, and once more after STARTTLS.
    offered = frozenset(str(name).upper() for name in client._imap.capabilities)
    dialogue.hear_alert(_text(client.welcome).removeprefix("* "))
    known = account.ways.known(account.server, account.credential)
    provider = provider_at(account.server.host, _text(client.welcome), offered, told=account.server.provider)
    asked = account
    if template := template_for(asked, provider, offered):
        account = dialogue.account = named_in_one(asked, side, template)
    ways = mechanisms(account, offered, preferred=provider.mechanisms, known=known)
    token = account.tokens.current() if account.tokens else None
    failure: MigrationError = _no_mechanism(account, side, offered)
    for mechanism in ways:
        try:
            told = _told_capabilities(_attempt(dialogue, mechanism, token, at_once="SASL-IR" in offered))
        except Refused as refused:
            # BAD means "not this mechanism", NO means "not this password": only BAD may be tried otherwise.
            failure = _login_failed(dialogue, f"{refused.status} {refused.text}", token=token)
            if refused.status != "BAD":
                break
        except ConnectionLost as lost:
            if account.tokens and token and not token.fresh and lost.cause_id == "connection_dropped":
                # Some end the connection in place of an answer to a token that has ended.
                account.tokens.ended(token)
                raise TokenEnded from None
            failure = _login_failed(dialogue, lost.server_text, lost.cause_id)
            break
        else:
            dialogue.token, dialogue.mechanism = token, mechanism
            if account.is_the_admins:
                account.ways.answered(account.server, account.password, let_in=True)
            if mechanism != ways[0]:
                account.ways.worked(account.server, account.credential, mechanism)
            return _introduced(dialogue, offered, told)
    if failure.cause_id == "admin_refused":
        account.ways.answered(account.server, account.password, let_in=False)
    if failure.cause_id in refused_login.CAUSES:
        failure.hint = login_hint(account, provider)
    if failure.hint is None and failure.cause_id in _OF_THE_TEMPLATE:
        failure.hint = template_hint(asked, provider, template)
    raise failure


def _no_mechanism(account: Account, side: Side, offered: frozenset[str]) -> MigrationError:
    """What is said where none of the mechanisms can be tried."""
    clear = account.server.security == "plain" and "LOGINDISABLED" in offered
    announced = " ".join(sorted(name for name in offered if name.startswith(("AUTH=", "LOGINDISABLED"))))
    return MemberError("starttls_required" if clear else "auth_mechanism", side, announced, where=account.server.host)


def _attempt(dialogue: Dialogue, mechanism: str, token: Token | None, *, at_once: bool) -> str:
    """Try one mechanism; returns the text of the OK, or what was told of capabilities before it. Refused otherwise.

    `at_once` sends the answer within the command, which saves a round trip (SASL-IR, RFC 4959).
    """
    account = dialogue.account
    if mechanism == "LOGIN":
        tag, answers = dialogue.send(login_command(account)), []
    else:
        response = base64.b64encode(sasl_response(mechanism, account, token.value if token else ""))
        command = b"AUTHENTICATE " + mechanism.encode()
        tag = dialogue.send(command + b" " + response if at_once else command)
        answers = [] if at_once else [response]
    deadline, octets = Deadline(), 0
    capabilities = challenge = ""
    while True:
        answer = dialogue.read(deadline)
        octets += answer.octets
        asked = answer.segments[0].startswith(b"+")
        try:
            text = dialogue.finish(answer, tag)
        except Refused as refused:
            raise (Refused(refused.status, f"{refused.text} {challenge}") if challenge else refused) from None
        if text is not None:
            return f"[{capabilities}]" if capabilities else text
        if octets > MAX_COLLECTED_BYTES:
            raise dialogue.lost("the server's answer has no end")
        if not asked:
            # Dovecot tells its capabilities in the OK, or before it to a client that has asked already.
            capabilities = answer.text if answer.text.upper().startswith("CAPABILITY ") else capabilities
        elif answers:
            dialogue.write(answers.pop() + b"\r\n")
        elif token and not challenge:
            challenge = told_in(answer.segments[0][1:].strip()) or "?"
            dialogue.write(acknowledgement(mechanism) + b"\r\n")
        else:
            raise dialogue.lost("the server asks for more than the mechanism has")


def _login_failed(dialogue: Dialogue, text: str, found: str = "", token: Token | None = None) -> MigrationError:
    account, side = dialogue.account, dialogue.side
    verdict = judge(text, stage="login", side=side, host=account.server.host)
    # Judged before, because what is not free of the password loses words.
    text = account.redacted(text)
    told, known_by = verdict.cause, str(KnownBy("login", verdict.rule))
    # A connection that ends without a word about the login says nothing about the password.
    found = found if found and told in {"unclassified", "ambiguous_login"} else told
    if found in {"timeout", "connection_dropped"}:
        return ServerError(found, side, text, where=account.user, known_by=known_by)
    if account.tokens and token and found in _OF_THE_TOKEN:
        account.tokens.ended(token)
        if not token.fresh:
            raise TokenEnded
    if found == "permission_denied":
        found = "not_authorized"  # no folder is asked for yet: it is the mailbox that is closed to who signs in
    if found in _OF_THE_PASSWORD:
        # Gmail refuses good tokens in these words when it has seen too many sign-ins; and an administrator's password
        # is not the member's to mend.
        found = "token_refused" if account.tokens else "admin_refused" if account.is_the_admins else found
    return error_of_reach(found, side, text, where=account.user, known_by=known_by)


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
