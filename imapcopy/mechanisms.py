"""How one signs in: which mechanisms in which order, and what each of them says (RFC 3501, 4616, 7628). Pure."""

import base64
import json
from collections.abc import Collection, Sequence
from dataclasses import replace

from imapcopy import grammar
from imapcopy.account import Account
from imapcopy.errors import MemberError, Side
from models.providers import Provider

_FOR_PASSWORDS = ("PLAIN", "LOGIN")
_FOR_TOKENS = ("XOAUTH2", "OAUTHBEARER")


def mechanisms(
    account: Account, offered: Collection[str], *, preferred: Sequence[str] = (), known: str = ""
) -> list[str]:
    """The mechanisms to try, the best first; the next one is for servers that do not understand the one before.

    `offered` are the capabilities in capitals, `preferred` is what the service is known to like, `known` what worked
    here before. Empty where nothing that is offered can take what the account has.
    """
    if account.tokens:
        able = [name for name in _FOR_TOKENS if f"AUTH={name}" in offered]
        if not able and not any(name.startswith("AUTH=") for name in offered):
            able = list(_FOR_TOKENS)
    elif account.on_behalf:
        # LOGIN has no place for a second name.
        able = ["PLAIN"]
    elif "LOGINDISABLED" in offered:
        # RFC 3501 section 6.2.3: it must not even be tried.
        able = ["PLAIN"] if "AUTH=PLAIN" in offered else []
    else:
        able = list(_FOR_PASSWORDS if "AUTH=PLAIN" in offered else reversed(_FOR_PASSWORDS))
    if not (account.user + account.login + account.password).isascii() and "PLAIN" in able:
        # A quoted string of LOGIN is ASCII; PLAIN is UTF-8.
        able = ["PLAIN"]
    wished = [known, *preferred]
    return sorted(able, key=lambda name: wished.index(name) if name in wished else len(wished))


def template_for(account: Account, provider: Provider, offered: Collection[str]) -> str:
    """How a service wants the names of an administrator and a member: in one by a template, "" for beside each other.

    The latter (RFC 4616) is surer where it is known to work: the separator of a template is each house's own.
    """
    beside = provider.authorization_identity and "AUTH=PLAIN" in offered
    return provider.master if account.on_behalf and not beside else ""


def named_in_one(account: Account, side: Side, template: str) -> Account:
    """The account with the member's and the administrator's name in one, as `user*admin` or `domain/admin/user`.

    {user} is the member's whole login, or what stands before the @ in a template that has {domain}, too.
    """
    local, _, domain = account.user.partition("@")
    if "{domain}" in template and not domain:
        told = "the template has {domain}, and the login has none"
        raise MemberError("admin_refused", side, told, where=account.user)
    user = local if "{domain}" in template else account.user
    login = template.format(user=user, local=local, domain=domain, admin=account.login)
    return replace(account, login=login, on_behalf=False)


def login_command(account: Account) -> bytes:
    """LOGIN with name and password in quotes."""
    name, password = ((account.login or account.user).encode(), account.password.encode())
    return b"LOGIN " + grammar.quote(name) + b" " + grammar.quote(password)


def sasl_response(mechanism: str, account: Account, token: str) -> bytes:
    """What the client says in a SASL mechanism, not yet in base64."""
    if mechanism == "PLAIN":
        by = account.user if account.on_behalf else ""
        return f"{by}\0{account.login or account.user}\0{account.password}".encode()
    if mechanism == "XOAUTH2":
        # Google's and Microsoft's own, older than the standard.
        return f"user={account.user}\x01auth=Bearer {token}\x01\x01".encode()
    if mechanism == "OAUTHBEARER":
        user = account.user.replace("=", "=3D").replace(",", "=2C")
        where = f"host={account.server.host}\x01port={account.server.port}"
        return f"n,a={user},\x01{where}\x01auth=Bearer {token}\x01\x01".encode()
    raise ValueError(f"{mechanism} is no mechanism of ours")


def acknowledgement(mechanism: str) -> bytes:
    """What a server waits for after it has said why it takes a token no more, before it says NO.

    RFC 7628 section 3.2.3 wants a single ^A, Google's and Microsoft's own mechanism an empty line.
    """
    return base64.b64encode(b"\x01") if mechanism == "OAUTHBEARER" else b""


def told_in(challenge: bytes) -> str:
    """What a server says about a token, out of the JSON of RFC 7628 section 3.2.2; "" for anything else."""
    try:
        told = json.loads(base64.b64decode(challenge, validate=True))
    except (ValueError, RecursionError):
        return ""
    return " ".join(f"{name}={value}" for name, value in told.items()) if isinstance(told, dict) else ""
