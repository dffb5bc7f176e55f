"""How a wave's members are signed in: with passwords of their own, by an administrator, or with access tokens.

`[sign_in.source]` and `[sign_in.target]` of banjia.toml say it for a side; pure, but for files that are looked for.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from imapcopy.account import Account, Server
from imapcopy.errors import MemberError, Side
from imapcopy.mechanisms import named_in_one
from models.private_files import NotPrivate, read_private
from models.providers import names_both
from tasks.tokens import NotIssued, TokenSource, google_tokens, microsoft_tokens

Method = Literal["password", "master", "google", "microsoft"]

GOOGLE_SCOPE = "https://mail.google.com/"
MICROSOFT_SCOPES = {
    "outlook.office365.com": "https://outlook.office365.com/.default",
    "partner.outlook.cn": "https://partner.outlook.cn/.default",
}
MICROSOFT_AUTHORITIES = {
    "outlook.office365.com": "https://login.microsoftonline.com",
    "partner.outlook.cn": "https://login.partner.microsoftonline.cn",
}
_HOSTS: dict[Method, tuple[str, ...]] = {
    "google": ("imap.gmail.com", "imap.googlemail.com"),
    "microsoft": tuple(MICROSOFT_SCOPES),
}


class SignIn(BaseModel):
    """How members are signed in at one side."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    method: Method = Field(default="password", description="password, master, google or microsoft")
    hosts: tuple[str, ...] = Field(
        default=(), description="the servers that it is for; default: that side's default server, or the vendor's own"
    )
    admin: str = Field(default="", description="master: the administrator's name")
    template: str = Field(
        default="",
        description="master: how both names become one, such as {user}*{admin}; default: as the service is known to "
        "want it, else the administrator is named beside the member (PLAIN)",
    )
    secret: str = Field(
        default="", description="the name of the password or client secret in the vault; default: source or target"
    )
    secret_file: Path | None = Field(default=None, description="a file that holds it, in place of the vault")
    key_file: Path | None = Field(
        default=None, description="google: the service account's key (JSON); microsoft: certificate and key (PEM)"
    )
    tenant: str = Field(default="", description="microsoft: the directory (tenant) ID, or a domain of it")
    client: str = Field(default="", description="microsoft: the application (client) ID")
    endpoint: str = Field(
        default="", description="where tokens are issued; default: the vendor's own, by the mail server's name"
    )
    scope: str = Field(default="", description="what the token is for; default: all mail over IMAP")

    @field_validator("secret_file", "key_file")
    @classmethod
    def _there(cls, file: Path | None) -> Path | None:
        if file is not None and not file.expanduser().is_file():
            raise ValueError("there is no such file")
        if file is None:
            return None
        try:
            # Whoever reads one of these may open every mailbox.
            read_private(file.expanduser())
        except NotPrivate as open_to_others:
            raise ValueError(str(open_to_others)) from None
        return file.expanduser()

    @field_validator("template")
    @classmethod
    def _known_places(cls, template: str) -> str:
        if template and not names_both(template):
            raise ValueError("must have {user} and {admin}, and may have {domain} and {local}")
        return template

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed: dict[Method, tuple[str, ...]] = {
            "master": ("admin",),
            "google": ("key_file",),
            "microsoft": ("tenant", "client"),
        }
        for name in needed.get(self.method, ()):
            if not getattr(self, name):
                raise ValueError(f"method {self.method} needs {name}")
        return self

    def is_for(self, host: str, default_host: str) -> bool:
        """Whether members at that server are signed in so: an administrator's password goes to no other one."""
        if self.method == "password":
            return False
        hosts = self.hosts or _HOSTS.get(self.method, (default_host,))
        return host.casefold() in {name.casefold() for name in hosts}


class SignIns(BaseModel):
    """Both sides."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source: SignIn = SignIn()
    target: SignIn = SignIn()

    def side(self, side: Side) -> SignIn:
        return self.source if side == "source" else self.target


def by_administrator(server: Server, side: Side, user: str, admin: str, password: str, template: str = "") -> Account:
    """The account of a member whom an administrator signs in; without a template the service's own way is used."""
    account = Account(server, user, password, login=admin, on_behalf=True)
    return named_in_one(account, side, template) if template else account


def token_source(asked: SignIn, host: str, secret: str, ca_file: Path | None, side: Side) -> TokenSource:
    """Where the tokens of a side come from; MemberError when what it takes cannot be used."""
    try:
        if asked.method == "google" and asked.key_file:
            return google_tokens(asked.key_file, asked.scope or GOOGLE_SCOPE, asked.endpoint, ca_file)
        cloud = host.casefold() if host.casefold() in MICROSOFT_SCOPES else "outlook.office365.com"
        return microsoft_tokens(
            asked.tenant,
            asked.client,
            asked.scope or MICROSOFT_SCOPES[cloud],
            asked.endpoint or MICROSOFT_AUTHORITIES[cloud],
            secret=secret,
            certificate=asked.key_file,
            ca_file=ca_file,
        )
    except NotIssued as refused:
        failure = MemberError("oauth_consent", side, refused.text)
    raise failure
