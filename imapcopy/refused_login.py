"""What probably lies behind a refused login: what is odd about the name or the password that was used. Pure.

Decided where the login is refused, because nobody sees the password later. Only the kind of the suspicion is kept.
"""

import re

from imapcopy.account import Account
from models.hints import Hint
from models.providers import Provider, providers

CAUSES = frozenset(
    {"bad_credentials", "ambiguous_login", "app_password_required", "no_such_user", "admin_refused", "token_refused"}
)
"""Refusals in which a typing mistake may be all that is wrong."""

# RFC 2221 section 4.1: the URL of RFC 5092, of which only the host is wanted.
_REFERRAL = re.compile(
    r"\[REFERRAL\s+imaps?://(?:[^@/\]\s]*@)?([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])", re.IGNORECASE
)
_FULL_WIDTH = re.compile("[\uff01-\uff5e\uffe0-\uffe6\u3001\u3002]")
_UNTYPED_QUOTES = re.compile("[\u2018-\u201f]")
_SPACES = re.compile(r"\s")
_AT_ENDS = re.compile(r"\A\s|\s\Z")


def login_hint(account: Account, provider: Provider) -> Hint | None:
    """The likeliest mistake, what is certainly odd first; None where nothing is."""
    kind = _odd_name(account.user) or ("" if _is_not_typed(account) else _odd_password(account.password))
    if kind:
        return Hint(kind)
    if provider.user_name == "address" and "@" not in account.user:
        return Hint("user_wants_address")
    if provider.user_name == "local_part" and "@" in account.user:
        return Hint("user_wants_local_part")
    if not _is_not_typed(account):
        code = _SPACES.sub("", account.password)
        length = provider.secret_length
        if length is not None and len(code) != length:
            return Hint("password_not_a_code", {"length": str(length)})
        if _SPACES.search(account.password):
            return Hint("password_blanks_inside")
    return Hint("user_upper_case") if account.user != account.user.lower() else None


def referral_hint(text: str) -> Hint | None:
    """The server that a refusal names as the one where the mailbox is."""
    found = _REFERRAL.search(text)
    return Hint("referral", {"host": found[1].strip("[]").lower()}) if found else None


def template_hint(account: Account, provider: Provider, used: str) -> Hint | None:
    """How else an administrator may have to be named where nobody wrote a template; `used` is the service's own."""
    if not account.on_behalf:
        return None
    if used:
        return Hint("admin_template", {"template": used})
    if provider.authorization_identity:
        return None
    return Hint("admin_templates", {"templates": tuple(f"{r.title.en} {r.master}" for r in providers() if r.master)})


def _is_not_typed(account: Account) -> bool:
    """Whether no member typed the secret into the roster."""
    return account.tokens is not None or account.is_the_admins


def _odd_name(user: str) -> str:
    if _FULL_WIDTH.search(user):
        return "user_full_width"
    if _invisible(user):
        return "user_invisible"
    return "user_blanks" if _SPACES.search(user) else ""


def _odd_password(password: str) -> str:
    if _FULL_WIDTH.search(password) or _UNTYPED_QUOTES.search(password):
        return "password_full_width"
    if _invisible(password):
        return "password_invisible"
    return "password_blanks_at_ends" if _AT_ENDS.search(password) else ""


def _invisible(text: str) -> bool:
    """Whether it has what nobody sees and nobody types: no-break and zero-width blanks, marks of direction."""
    return any(c != " " and not c.isprintable() for c in text)
