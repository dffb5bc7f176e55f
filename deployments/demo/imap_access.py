"""The commands around a session: capabilities, ID, and who may come in (RFC 9051 sections 6.1 and 6.2)."""

import base64
import binascii

from deployments.demo.imap_behaviour import Received
from deployments.demo.imap_grammar import Arguments, Malformed, Refused
from deployments.demo.imap_session import ALWAYS, BEFORE_LOGIN, Session, Usage
from deployments.demo.imap_store import Account


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
    if mechanism not in ("PLAIN", "XOAUTH2") or not session.offers(f"AUTH={mechanism}"):
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
        if mechanism == "XOAUTH2":
            fields = dict(line.split("=", 1) for line in answer.split("\x01") if line)
            return _enter_by_token(session, fields["user"], fields["auth"].removeprefix("Bearer "))
        user, login, password = answer.split("\0")
    except (binascii.Error, ValueError, KeyError):
        raise Malformed("Invalid SASL response") from None
    return _enter(session, "AUTHENTICATE", user, login, password)


def _enter_by_token(session: Session, user: str, token: str) -> str:
    session.begin(Received(user, "AUTHENTICATE", ""))
    account = session.server.find_account(user)
    if account is None or session.behaviour.tokens.get(user) != token:
        # The client answers the error with an empty line before it gets its NO.
        session.ask(base64.b64encode(b'{"status":"400","schemes":"bearer"}').decode("ascii"))
        session.read_line()
        raise Refused("[AUTHENTICATIONFAILED] Authentication failed.")
    return _open_account(session, account)


def _enter(session: Session, verb: str, user: str, login: str, password: str) -> str:
    """Log in; a master user names the other one as SASL authorisation identity, or as user*master."""
    if not user:
        user, _, master = login.partition("*")
        login = master or user
    session.begin(Received(user, verb, ""))
    refusal = session.behaviour.login_refusals.get(user)
    if refusal is not None:
        raise Refused(refusal)
    account = session.server.find_account(user)
    expected = account.password if account and login == user else session.behaviour.masters.get(login)
    if account is None or expected is None or password != expected:
        raise Refused("[AUTHENTICATIONFAILED] Authentication failed.")
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
