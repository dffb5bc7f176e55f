"""The commands around a session: capabilities, ID, and who may come in (RFC 9051 sections 6.1 and 6.2)."""

import base64
import binascii
import re

from deployments.demo.imap_behaviour import Received
from deployments.demo.imap_grammar import Arguments, Malformed, Refused
from deployments.demo.imap_session import ALWAYS, BEFORE_LOGIN, Session, Usage
from deployments.demo.imap_store import Account

# What is said of a token that is not taken, and what the client has to answer (RFC 7628 sections 3.2.2 and 3.2.3).
_MECHANISMS = {
    "PLAIN": (b"", b""),
    "XOAUTH2": (b'{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}', b""),
    "OAUTHBEARER": (b'{"status":"invalid_token","scope":"https://mail.google.com/"}', b"AQ=="),
}


def capability(session: Session, args: Arguments) -> str:
    args.end()
    session.untagged(f"CAPABILITY {session.behaviour.announced(logged_in=session.account is not None)}")
    return "That is all"


def noop(session: Session, args: Arguments) -> str:
    args.end()
    return "Nothing done"


def logout(session: Session, args: Arguments) -> str:
    args.end()
    for _ in range(session.behaviour.byes):
        session.untagged("BYE Good-bye")
    session.leave()
    return "Logged out"


def client_id(session: Session, args: Arguments) -> str:
    args.space()
    if not args.take(b"NIL"):
        args.expect(b"(")
        first = True
        while not args.take(b")"):
            if not first:
                args.space()
            args.astring()
            first = False
    args.end()
    session.identified = True
    session.untagged(f"ID {session.behaviour.identity}")
    return "Pleased to meet you"


def login(session: Session, args: Arguments) -> str:
    args.space()
    user = args.astring()
    args.space()
    password = args.astring()
    args.end()
    return _enter(session, "LOGIN", "", text_of(user), text_of(password))


def authenticate(session: Session, args: Arguments) -> str:
    args.space()
    mechanism = args.word()
    if mechanism not in _MECHANISMS or not session.offers(f"AUTH={mechanism}"):
        raise Refused("Unsupported authentication mechanism")
    if args.at_end():
        session.ask("")
        response = session.read_line()
    else:
        args.space()
        if not session.offers("SASL-IR"):
            raise Malformed("No initial response without SASL-IR")
        response = args.astring()
        args.end()
    if response == b"*":
        raise Malformed("Authentication cancelled")
    try:
        answer = text_of(base64.b64decode(b"" if response == b"=" else response, validate=True))
        if mechanism != "PLAIN":
            return _enter_by_token(session, mechanism, *_token_of(mechanism, answer))
        user, login, password = answer.split("\0")
    except (binascii.Error, ValueError, KeyError):
        raise Malformed("Invalid SASL response") from None
    return _enter(session, "AUTHENTICATE", user, login, password)


def _token_of(mechanism: str, answer: str) -> tuple[str, str]:
    """User and token: `user=..^Aauth=Bearer ..^A^A`, or the form of RFC 7628 section 3.1."""
    head, *rest = answer.split("\x01") if mechanism == "OAUTHBEARER" else ["", *answer.split("\x01")]
    fields = dict(line.split("=", 1) for line in rest if line)
    scheme, _, token = fields["auth"].partition(" ")
    if scheme.lower() != "bearer":
        raise ValueError(scheme)
    if mechanism == "XOAUTH2":
        return fields["user"], token
    binding, authzid, _ = head.split(",")
    if binding != "n" or not authzid.startswith("a="):
        raise ValueError(head)
    return authzid[2:].replace("=2C", ",").replace("=3D", "="), token


def _enter_by_token(session: Session, mechanism: str, user: str, token: str) -> str:
    session.begin(Received(user, "AUTHENTICATE", mechanism))
    account = session.server.find_account(user)
    if account is None or not session.behaviour.tokens.opens(token, user):
        # The client answers the reason before it gets its NO; each mechanism has an answer of its own.
        reason, answer = _MECHANISMS[mechanism]
        session.ask(base64.b64encode(reason).decode("ascii"))
        if session.read_line() != answer:
            raise Malformed("Invalid SASL response")
        raise Refused("[AUTHENTICATIONFAILED] Authentication failed.")
    text = _open_account(session, account)
    session.token = token
    return text


def _enter(session: Session, verb: str, user: str, login: str, password: str) -> str:
    """Log in; a master names the other one as SASL authorisation identity, or both in one name as user*master."""
    behaviour = session.behaviour
    if not user:
        user = login
        if both := re.fullmatch(behaviour.master_login, login):
            named = both.groupdict()
            user, login = named.get("user") or f"{named['local']}@{named['domain']}", named["admin"]
    session.begin(Received(user, verb, ""))
    refusal = behaviour.login_refusals.get(user)
    if refusal is not None:
        raise Refused(refusal)
    account = session.server.find_account(user)
    if login == user:
        if account is None or password != account.password:
            raise Refused("[AUTHENTICATIONFAILED] Authentication failed.")
        return _open_account(session, account)
    if password != behaviour.masters.get(login, password + "?"):
        raise Refused("[AUTHENTICATIONFAILED] Authentication failed.")
    if account is None or user not in behaviour.masters_of.get(login, {user}):
        raise Refused("[AUTHORIZATIONFAILED] You may not open this mailbox.")
    return _open_account(session, account)


def _open_account(session: Session, account: Account) -> str:
    with session.server.lock:
        others = sum(other.account is account for other in session.server.sessions)
        limit = session.behaviour.max_connections
        if limit is not None and others >= limit:
            raise Refused("[LIMIT] Too many connections")
        session.account = account
    if not session.behaviour.login_tells_capabilities:
        return "Logged in"
    return f"[CAPABILITY {session.behaviour.announced(logged_in=True)}] Logged in"


def text_of(octets: bytes) -> str:
    """Read a name or password, which old clients send in Latin-1."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


ACCESS_COMMANDS = {
    "CAPABILITY": Usage(capability, ALWAYS),
    "NOOP": Usage(noop, ALWAYS),
    "LOGOUT": Usage(logout, ALWAYS),
    "ID": Usage(client_id, ALWAYS, "ID"),
    "LOGIN": Usage(login, BEFORE_LOGIN),
    "AUTHENTICATE": Usage(authenticate, BEFORE_LOGIN),
}
