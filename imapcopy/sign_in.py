"""Opens a connection and signs in: TLS or a refusal, one try of a password, then who we are.

imapclient hears the greeting, asks what is offered and negotiates STARTTLS, over our own wire, which bounds what it
reads. After that the copier speaks over the same wire itself: the library rewrites bare line ends, loses a whole answer
to one odd name, never looks at the status of MULTIAPPEND, cannot overlap commands, and answers a refused token with the
token.
"""

import ast
import base64
import imaplib
import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import imapclient
from imapclient.exceptions import CapabilityError, IMAPClientError

from imapcopy import refused_login, responses
from imapcopy.account import Account, Server, Token
from imapcopy.answers import judge, judge_exception
from imapcopy.dialogue import THROW_AWAY, Dialogue
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
from imapcopy.reach import AddressRefused, reach
from imapcopy.refused_login import login_hint, referral_hint, template_hint
from imapcopy.unconnected import hint_of
from imapcopy.wire import OpeningDeadline, Unreadable, Wire, WireBroken
from models.providers import provider_at
from models.server_words import KnownBy

_NO_IMAP = (IMAPClientError, WireBroken, ValueError, ArithmeticError, MemoryError)
"""What comes out where an answer is none; of the library, numbers of a thousand digits too."""
IDENTITY = b'ID ("name" "Banjia")'
_FOR_THE_ADMIN = frozenset(
    {"address_refused", "tls_cert", "tls_protocol", "wrong_port", "starttls_required", "unreadable_answer"}
)
"""Causes for which no waiting helps a connection that came to nothing."""
_OF_THE_PASSWORD = frozenset({"bad_credentials", "ambiguous_login", "app_password_required"})
_OF_THE_TEMPLATE = frozenset({"admin_refused", "auth_mechanism"})
"""Causes that may lie in how an administrator and a member are named."""
_OF_THE_TOKEN = _OF_THE_PASSWORD | {"token_expired", "oauth_consent", "oauth_required"}
"""Causes that another token may cure, where this one is not new."""


class TokenEnded(Exception):
    """The server does not take the token, and it is not the newest: another one may open, over another connection."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """A server that has greeted, inside TLS where it is to be, and what it said of itself."""

    wire: Wire
    greeting: str
    offered: frozenset[str]
    lets_anybody_in: bool
    """It has signed us in without being asked (PREAUTH)."""


class _OverWire(imaplib.IMAP4):
    """Reads and writes over our wire: `open`, `read`, `readline`, `send` and `shutdown` are there to be overridden."""

    def __init__(self, wire: Wire, deadline: OpeningDeadline, server: Server) -> None:
        self._wire = wire
        self._deadline = deadline
        self.only_rev2 = False
        """It speaks IMAP4rev2 alone (RFC 9051), of which the library has not heard."""
        super().__init__(server.host, server.port)

    def open(self, host: str = "", port: int = 143, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = self._wire.socket

    def read(self, size: int) -> bytes:
        if size > self._wire.limits.opening_octets:
            raise Unreadable(f"the server announced {size} bytes at once")
        return self._wire.octets(size, self._deadline)

    def readline(self) -> bytes:
        line = b""
        while not line:
            self._deadline.answered()
            line = self._wire.line(self._deadline).rstrip(b"\r\n")
        # The library knows its tag and the status behind it in capital letters only.
        tag, blank, rest = line.partition(b" ")
        if blank and tag.upper().startswith(_octets(self.tagpre)):
            status, blank, rest = rest.partition(b" ")
            line = tag.upper() + b" " + status.upper() + (blank or b" ") + rest
        return line + b"\r\n"

    def send(self, data: Any) -> None:
        self._wire.send(data)

    def shutdown(self) -> None:
        self._wire.close()

    def starttls(self, ssl_context: ssl.SSLContext | None = None) -> Any:
        if ssl_context is None or "STARTTLS" not in self.capabilities:
            raise self.abort("TLS not supported by server")
        status, data = self.xatom("STARTTLS")
        if status != "OK":
            raise self.error("Couldn't establish TLS session")
        self._wire.encrypt(ssl_context, self.host, self._deadline.patience or 0.001)
        # What was said in clear may have been anybody's words (RFC 9051 section 6.2.1).
        self.untagged_responses.clear()
        self._get_capabilities()
        return status, data

    def _get_capabilities(self) -> None:
        """Take the capabilities of the greeting where a server refuses to be asked for them before the login."""
        told = self.untagged_responses.get("CAPABILITY", [])
        in_greeting = tuple(_octets(told[-1]).decode("latin-1").upper().split()) if told else ()
        try:
            super()._get_capabilities()  # type: ignore[misc]
        except self.abort:
            raise
        except self.error:
            if not in_greeting:
                raise
            self.capabilities = in_greeting
        if not {"IMAP4REV1", "IMAP4REV2"} & {*self.capabilities}:
            # After a NO the library takes the server's words for its capabilities.
            self.capabilities = in_greeting or self.capabilities
        self.only_rev2 = "IMAP4REV2" in self.capabilities and "IMAP4REV1" not in self.capabilities
        if self.only_rev2:
            self.capabilities = (*self.capabilities, "IMAP4REV1")

    @property
    def offered(self) -> frozenset[str]:
        names = [str(name) for name in self.capabilities if not (self.only_rev2 and name == "IMAP4REV1")]
        return responses.capabilities("CAPABILITY " + " ".join(names))


def _octets(value: Any) -> bytes:
    """What the library's types are vague about."""
    return value if isinstance(value, bytes) else b""


class _Client(imapclient.IMAPClient):  # type: ignore[misc]
    def __init__(self, wire: Wire, deadline: OpeningDeadline, server: Server) -> None:
        self._spoken_over = wire, deadline, server
        super().__init__(server.host, server.port, ssl=False)
        # It has set the socket's time-out by its own lights.
        wire.be_patient(wire.silence)

    def _create_IMAP4(self) -> _OverWire:  # noqa: N802  (the library's name)
        return _OverWire(*self._spoken_over)


def connect(account: Account, side: Side) -> Greeted:
    """Connect, have TLS where it is to be, hear the greeting and ask what is offered; nothing is said of who we are."""
    server = account.server
    if server.security == "plain" and not (server.is_loopback or server.plain_allowed):
        raise MemberError("clear_text_refused", side, "", where=server.host)
    row = provider_at(server.host, told=server.provider)
    limits = account.limits.at_least(row.connect_seconds, row.silence_seconds, row.answer_seconds)
    wire: Wire | None = None
    try:
        wire = Wire(_reached(server, limits.connect_seconds), limits, account.admission.read, account.admission.written)
        deadline = OpeningDeadline(limits)
        if server.security == "tls":
            wire.encrypt(_tls_context(server), server.host, limits.connect_seconds)
        client = _Client(wire, deadline, server)
        # The library formats the repr of every line at its default level, even with logging off.
        client._imap.debug = 0
        if server.security == "starttls":
            client.starttls(_tls_context(server))
        wire.be_patient(limits.silence_seconds)
        # Without it each small command waits 40 ms for the server's delayed ACK.
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What this process leaves in the socket when it dies must not arrive: the next one looks up what did, and on a
        # slow line megabytes of mail would still come in while it looks, and after.
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, THROW_AWAY)
    except (OSError, *_NO_IMAP) as error:
        if wire:
            wire.close()
        raise _connect_failed(error, account, side) from None
    spoken = client._imap
    greeting = bytes(spoken.welcome or b"").decode("latin-1")
    return Greeted(wire, greeting, spoken.offered, spoken.state == "AUTH")


def _reached(server: Server, seconds: float) -> socket.socket:
    return reach(server.host, server.port, seconds, private_too=server.private_allowed)


def _connect_failed(error: Exception, account: Account, side: Side) -> MigrationError:
    said, host = _library_text(error), account.server.host
    text, known_by = account.redacted(said), ""
    if isinstance(error, AddressRefused):
        found = "address_refused"
    elif isinstance(error, (OSError, UnicodeError)):
        found = judge_exception(error, stage="connect", side=side, host=host).cause
    elif isinstance(error, Unreadable):
        found = "unreadable_answer"
    elif isinstance(error, CapabilityError):
        # STARTTLS is not offered, or somebody on the way has taken it out: never go on in clear text.
        found = "tls_protocol"
    else:
        told = judge(said, stage="greeting", side=side, host=host)
        found, known_by = told.cause, str(KnownBy("greeting", told.rule))
    kind = MemberError if found in _FOR_THE_ADMIN else ServerError
    hint = referral_hint(text) or hint_of(found, error, text, account.server)
    return kind(found, side, text, where=f"{host}:{account.server.port}", hint=hint, known_by=known_by)


def sign_in(dialogue: Dialogue, server: Greeted) -> frozenset[str]:
    """Sign in, introduce ourselves, and return what the server offers after that; TokenEnded asks for another try."""
    account, side = dialogue.account, dialogue.side
    if any(c in "\r\n\0" for c in account.user + account.login + account.password):
        raise MemberError("bad_credentials", side, "user name or password contains a control character")
    if server.lets_anybody_in:
        # It gives one mailbox to whoever connects, so all members would be brought the same one.
        raise MemberError("no_sign_in", side, account.redacted(server.greeting), where=account.server.host)
    if account.is_the_admins and account.ways.is_given_up(account.server, account.password):
        # One account signs in for all: a wrong password must not be tried once for each of them.
        raise MemberError("admin_refused", side, "not tried again in this run", where=account.user)
    # The library has asked when it connected, and once more after STARTTLS.
    offered = server.offered
    dialogue.hear_alert(server.greeting.removeprefix("* "))
    known = account.ways.known(account.server, account.credential)
    provider = provider_at(account.server.host, server.greeting, offered, told=account.server.provider)
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
    deadline, weight = dialogue.deadline(), 0
    capabilities = challenge = ""
    while True:
        answer = dialogue.read(deadline)
        weight += answer.weight
        asked = answer.segments[0].startswith(b"+")
        try:
            text = dialogue.finish(answer, tag)
        except Refused as refused:
            raise (Refused(refused.status, f"{refused.text} {challenge}") if challenge else refused) from None
        if text is not None:
            return f"[{capabilities}]" if capabilities else text
        if weight > dialogue.limits.held_octets:
            raise dialogue.unreadable("the server's answer has no end")
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
    hint = referral_hint(text) if found == "other_server" else None
    return error_of_reach(found, side, text, where=account.user, hint=hint, known_by=known_by)


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


def _told_capabilities(text: str) -> frozenset[str] | None:
    """The capabilities that an answer to a login tells: `OK [CAPABILITY IMAP4rev1 ...] Logged in` (RFC 9051 7.1)."""
    match = re.match(r"\[(CAPABILITY [^\]]*)\]", text, re.IGNORECASE)
    return responses.capabilities(match[1]) if match else None


def _tls_context(server: Server) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # Whom it is for stands in subjectAltName and nowhere else (RFC 9525 section 6.3).
    context.hostname_checks_common_name = False
    if server.ca_file:
        context.load_verify_locations(server.ca_file)
    return context


def _library_text(error: BaseException) -> str:
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
