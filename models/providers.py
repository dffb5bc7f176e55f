"""What is known of mail services, from `providers.toml` and `provider_steps.toml`: nothing else asks who a server is.

A table is checked when it is read; the admin's own file adds rows to it or changes single fields of its rows. Pure but
for the one table that is in force in this process (`use_providers`).
"""

import difflib
import threading
import tomllib
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cache, lru_cache
from importlib.resources import files
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from models.bilingual import Language, Text

ANYBODY = "anybody"
"""The row of servers that no other row knows."""
SHIPPED = ("providers.toml", "provider_steps.toml")

Security = Literal["tls", "starttls", "plain"]
Mechanism = Literal["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"]
UserName = Literal["address", "local_part"]
Secret = Literal["client_password", "password", "oauth"]

_CHECKED = ConfigDict(extra="forbid", str_min_length=1)
_NOT_INHERITED = ("title", "aliases", "domains", "mx", "cname", "hosts", "greeting", "identity", "capability")


def _bilingual(value: object) -> object:
    if isinstance(value, Text):
        return value
    if not isinstance(value, dict) or set(value) != {"zh", "en"}:
        raise ValueError("needs zh and en")
    if not all(isinstance(each, str) and each.strip() for each in value.values()):
        raise ValueError("needs zh and en")
    return Text(**value)


def _known_step(name: str) -> str:
    if name not in STEPS:
        raise PydanticCustomError("literal_error", "Input should be {known}", {"known": ", ".join(STEPS)})
    return name


def _folded(value: object) -> object:
    return frozenset(each.casefold() for each in value) if isinstance(value, list) else value


def names_both(template: str) -> bool:
    """Whether a template makes one login of a member's name and an administrator's."""
    try:
        places = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError:
        return False
    return places <= {"user", "domain", "local", "admin"} and "admin" in places and bool(places & {"user", "local"})


def _naming_both(template: str) -> str:
    if not names_both(template):
        raise PydanticCustomError("string_pattern_mismatch", "Input should have places for user and admin")
    return template


Bilingual = Annotated[Text, BeforeValidator(_bilingual)]
Names = Annotated[frozenset[str], BeforeValidator(_folded)]
Step = Annotated[str, AfterValidator(_known_step)]
"""What a provider's own steps are for; a key of `STEPS`."""
Labelled = Annotated[str, Field(pattern="^(inbox|sent|drafts|trash|junk|archive)$")]
Attribute = Annotated[str, Field(pattern=r"^\\[a-z]+$")]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Ending = Annotated[str, Field(pattern=r"^[a-z0-9*]([a-z0-9*.-]*[a-z0-9])?$")]
"""A domain name in lower case, without a dot at its ends."""


@dataclass(frozen=True, slots=True, config=_CHECKED)
class Traits:
    """How a server's folders differ from plain ones; names are folded."""

    containers: Names = frozenset()
    not_mail: Names = frozenset()
    others: Names = frozenset()
    """Other users' folders at the top, where the server tells no namespaces; `public` those of everybody."""
    public: Names = frozenset()
    views: tuple[Attribute, ...] = ()
    """Attributes of folders that show mail of other folders, the widest first."""
    view_role: Literal["", "sent", "drafts", "trash", "junk", "archive"] = ""
    labels: Mapping[Labelled, Sequence[str]] = field(default_factory=dict)
    """By role, what stands for such a folder among a message's labels; empty where messages have none."""


@dataclass(frozen=True, slots=True, config=_CHECKED)
class MailServer:
    """One server of a provider, and for whom it is where there are several."""

    host: Ending
    port: Annotated[int, Field(ge=1, le=65535)] = 993
    security: Security = "tls"
    area: Bilingual | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" + ("" if self.security == "tls" else f" {self.security}")


@dataclass(frozen=True, slots=True, config=_CHECKED)
class Provider:
    """One row of the table. What is not known is empty or None."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=40)]
    """Its id in the table, the roster and the database."""
    title: Bilingual
    aliases: tuple[str, ...] = ()
    """How admins write it into a roster, beside name, titles and domains."""
    hosts: tuple[Ending, ...] = ()
    """Ends of the names of its IMAP servers."""
    greeting: str = ""
    """A part of the greeting that nobody else says."""
    identity: str = ""
    """A part of the name or vendor that its answer to ID (RFC 2971) gives."""
    capability: str = ""
    """A capability that nobody else has."""
    domains: tuple[Ending, ...] = ()
    """Of its own addresses."""
    mx: tuple[Ending, ...] = ()
    """Ends of the names that MX records of its customers' domains point at."""
    cname: tuple[Ending, ...] = ()
    """Ends of the names that `imap.<customer's domain>` stands for."""
    imap: tuple[MailServer, ...] = ()
    """The usual one first."""
    smtp: tuple[MailServer, ...] = ()
    mechanisms: tuple[Mechanism, ...] = ()
    """How to sign in, the best first; empty leaves it to the server."""
    user_name: UserName | None = None
    """What to sign in as."""
    master: Annotated[str, AfterValidator(_naming_both)] = ""
    """How an administrator signs in as a member: a template of `{user}`, `{domain}` and `{admin}`."""
    authorization_identity: bool = False
    """An administrator is also taken who is named beside the member (RFC 4616), which goes before `master`."""
    secrets: tuple[Secret, ...] = ()
    """What to sign in with, the usual first."""
    secret_name: Bilingual | None = None
    """What the provider calls it."""
    secret_length: Annotated[int, Field(ge=1)] | None = None
    """Characters of a client password without its blanks, where all have the same number and nothing else is taken."""
    connections: int | None = None
    """How many connections the service stands, of all members together."""
    mailbox_connections: int | None = None
    """The same for one mailbox."""
    logins_a_minute: int | None = None
    """How many sign-ins of all members together it stands."""
    connect_seconds: Seconds | None = None
    """How long its servers may take to greet, where that is more than is set (`BANJIA_CONNECT_SECONDS`)."""
    silence_seconds: Seconds | None = None
    """How long they may say nothing while an answer is due (`BANJIA_SILENCE_SECONDS`)."""
    answer_seconds: Seconds | None = None
    """In how long an answer has to get on (`BANJIA_ANSWER_SECONDS`)."""
    largest_message: int | None = None
    """Octets, where the service publishes a limit; what its server tells counts more."""
    download_a_day: int | None = None
    """Octets that may be read from one mailbox in 24 hours."""
    upload_a_day: int | None = None
    """The same for what may be written."""
    traits: Traits = field(default_factory=Traits)
    steps: Mapping[Step, tuple[Bilingual, ...]] = field(default_factory=dict)
    """What to click, by what for, one text a step."""
    quirks: tuple[Bilingual, ...] = ()
    """What else an admin should know."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """By field, where it was read; `assumed` is from memory, or our own judgement."""

    def steps_for(self, kind: str) -> tuple[Text, ...]:
        """Its steps of a kind; where members have no switch for IMAP, the administrator's."""
        return self.steps.get(kind, ()) or (self.steps.get("allow_clients", ()) if kind == "imap" else ())

    @property
    def member_steps(self) -> tuple[Step, ...]:
        """Kinds of its steps that the member takes, in the order in which they are taken."""
        return tuple(kind for kind in STEPS if kind in self.steps and STEPS[kind][0] == "member")

    @property
    def admin_steps(self) -> tuple[Step, ...]:
        return tuple(kind for kind in STEPS if kind in self.steps and STEPS[kind][0] == "admin")


STEPS: dict[Step, tuple[Literal["member", "admin"], Text]] = {
    "allow_clients": ("admin", Text("允许第三方邮件客户端", "Allow third-party mail clients")),
    "ip_rules": ("admin", Text("放开登录 IP 限制", "Lift restrictions on where members sign in from")),
    "oauth": ("admin", Text("授权本程序访问全公司邮箱", "Authorise access to the company's mailboxes")),
    "read_receipts": ("admin", Text("关闭已读回执", "Suppress read receipts")),
    "lock": ("member", Text("解除安全锁和二次验证", "Lift the security lock and second factor")),
    "web_login": ("member", Text("在网页确认登录", "Confirm the sign-in in a browser")),
    "imap": ("member", Text("开启 IMAP", "Switch IMAP on")),
    "client_password": ("member", Text("取得客户端密码", "Get the password for mail clients")),
    "receive_range": ("member", Text("收取范围改为“全部”", "Set the receive range to All")),
}
"""Each kind of steps: whose turn it is and what it is for, in the order in which they are taken."""


class ProvidersMistaken(Exception):
    """A table of providers cannot be used; `told` names file, row and field of every mistake."""

    def __init__(self, told: Text) -> None:
        self.told = told
        super().__init__(told.en)


Table = Mapping[str, Mapping[str, Any]]


def read_table(text: str, file: str) -> Table:
    """The rows of a file as they are written; ProvidersMistaken when it is no TOML or has something beside rows."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProvidersMistaken(Text(f"{file}：不是有效的 TOML：{error}", f"{file}: no valid TOML: {error}")) from None
    loose = [name for name, row in document.items() if not isinstance(row, dict)]
    if loose:
        names = ", ".join(loose)
        raise ProvidersMistaken(
            Text(
                f"{file}：{names} 不属于任何一行；请写在 [服务商] 之下",
                f"{file}: {names} belongs to no row; write it below [a provider]",
            )
        )
    return document


def providers_of(*tables: tuple[str, Table]) -> tuple[Provider, ...]:
    """The rows of all tables, each given with its file's name; what a later one says of a row's field counts.

    ProvidersMistaken when a row cannot be used; the last file that wrote the row is named.
    """
    rows: dict[str, dict[str, Any]] = {}
    written: dict[str, str] = {}
    for file, table in tables:
        for name, row in table.items():
            rows[name] = _merged(rows.get(name, {}), row)
            written[name] = file
    mistakes: list[Text] = []
    made: list[Provider] = []
    for name in rows:
        try:
            made.append(Provider(name=name, **_with_inherited(rows, name)))
        except ValidationError as error:
            mistakes += _told(written[name], name, error, rows[name])
        except _NoSuchRow as missing:
            mistakes.append(_like_nothing(written[name], name, str(missing), rows))
    mistakes += _contested(made, written)
    if mistakes:
        raise ProvidersMistaken(Text("\n".join(m.zh for m in mistakes), "\n".join(m.en for m in mistakes)))
    return tuple(made)


@cache
def shipped() -> tuple[tuple[str, Table], ...]:
    """The tables that come with the program."""
    return tuple((file, read_table((files("models") / file).read_text(encoding="utf-8"), file)) for file in SHIPPED)


_in_force: tuple[Provider, ...] | None = None
_made_of_shipped: tuple[Provider, ...] = ()
_making = threading.Lock()


def use_providers(text: str, file: str) -> None:
    """Let this process know the rows of the admin's own file, over ours; "" takes them away again."""
    global _in_force
    _in_force = providers_of(*shipped(), (file, read_table(text, file))) if text else None
    for known in (_of_host, _by_word, provider_of_domain):
        known.cache_clear()


def providers() -> tuple[Provider, ...]:
    """The table in force, in its order."""
    return _in_force if _in_force is not None else _made_of_shipped or _shipped_providers()


def _shipped_providers() -> tuple[Provider, ...]:
    global _made_of_shipped
    # The connections of many mailboxes are opened at the same time, and each asks who its server is.
    with _making:
        _made_of_shipped = _made_of_shipped or providers_of(*shipped())
    return _made_of_shipped


# Who is it?


def provider_named(name: str) -> Provider:
    """The row of that id; `anybody` for none, and for one that has gone from the admin's file."""
    return next((row for row in providers() if row.name == name), None) or _anybody()


def provider_meant(written: str) -> Provider | None:
    """The row that an admin means by a word in a roster: id, title, alias or domain, however it is typed."""
    return _by_word().get(_word(written))


@cache
def _by_word() -> Mapping[str, Provider]:
    """Every word that means a row; asked of each row of a roster."""
    return {word: row for row in providers() for word in _words(row)}


def similar_words(written: str, most: int = 3) -> list[str]:
    """Words that a misspelt one may have meant, the nearest first, one for each row."""
    known = {word: row for word, row in _by_word().items() if row.name != ANYBODY}
    near = difflib.get_close_matches(_word(written), known, n=4 * most, cutoff=0.6)
    return list(dict.fromkeys(known[word].name for word in near))[:most]


def provider_at(
    host: str, greeting: str = "", capabilities: Collection[str] = (), identity: str = "", *, told: str = ""
) -> Provider:
    """Whose server it is: by the longest end of its name, else as it was `told` (the name of a row), else by what it
    says of itself; `anybody` if nobody knows.
    """
    if found := _of_host(host):
        return found
    if told and (row := provider_named(told)).name != ANYBODY:
        return row
    said = [row for row in providers() if _said(row.greeting, greeting)]
    if said:
        return max(said, key=lambda row: len(row.greeting))
    own = (
        row
        for row in providers()
        if _said(row.identity, identity) or (row.capability and row.capability in capabilities)
    )
    return next(own, None) or _anybody()


@lru_cache(maxsize=1024)
def _of_host(host: str) -> Provider | None:
    """Asked with every connection, mostly for the same few hosts."""
    found = max(providers(), key=lambda row: _longest_end(host, row.hosts))
    return found if _longest_end(host, found.hosts) else None


@lru_cache(maxsize=1024)
def provider_of_domain(domain: str) -> Provider | None:
    """The provider whose own addresses end in that domain."""
    return next((row for row in providers() if _longest_end(domain, row.domains)), None)


def provider_of_records(mx: Iterable[str], cname: str = "") -> Provider | None:
    """The provider that a domain's MX records, or what its `imap` stands for, point at."""
    names = [cname] if cname else []
    for ends, asked in (("cname", names), ("mx", list(mx))):
        found = [(_longest_end(name, getattr(row, ends)), row) for row in providers() for name in asked]
        length, row = max(found, key=lambda each: each[0], default=(0, None))
        if length:
            return row
    return None


def _anybody() -> Provider:
    return next(row for row in providers() if row.name == ANYBODY)


def _longest_end(name: str, ends: Iterable[str]) -> int:
    """The length of the longest of these ends that a host or domain has, 0 for none; `*` stands for one label."""
    labels = name.casefold().rstrip(".").split(".")
    lengths = [0]
    for end in ends:
        wanted = end.split(".")
        own = labels[-len(wanted) :]
        if len(own) == len(wanted) and all(w in ("*", o) for w, o in zip(wanted, own, strict=True)):
            lengths.append(len(end))
    return max(lengths)


def _said(part: str, text: str) -> bool:
    return bool(part) and part.casefold() in text.casefold()


def _word(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum() or c in ".")


def _words(row: Provider) -> set[str]:
    return {_word(each) for each in (row.name, row.title.zh, row.title.en, *row.aliases, *row.domains)}


def providers_template(language: Language) -> str:
    """A table of an admin's own to begin with: every field explained, and nothing in force."""
    return _TEMPLATE.in_language(language)


# Reading a table


class _NoSuchRow(Exception):
    pass


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, those of the second one over the first; tables within (`steps`, `traits`) too."""
    merged = dict(below)
    for name, value in above.items():
        before = merged.get(name)
        nested = isinstance(before, dict) and isinstance(value, dict) and not {"zh", "en"} & value.keys()
        merged[name] = _merged(before, value) if nested and before is not None else value
    return merged


def _with_inherited(rows: Mapping[str, Mapping[str, Any]], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A row's fields over those of the row that it is like, which gives all but the signs by which it is known."""
    row = dict(rows[name])
    like = row.pop("like", None)
    if like is None:
        return row
    if not isinstance(like, str) or like not in rows or like in (*seen, name):
        raise _NoSuchRow(str(like))
    above = _with_inherited(rows, like, (*seen, name))
    return _merged({key: value for key, value in above.items() if key not in _NOT_INHERITED}, row)


def _told(file: str, name: str, error: ValidationError, own: Collection[str]) -> Iterator[Text]:
    for detail in error.errors(include_url=False, include_input=False):
        if "like" in own and detail["loc"][0] not in own:
            continue  # told of the row that it is like
        field_name = ".".join(str(part) for part in detail["loc"] if part != "[key]")
        zh, en = _fault(detail["type"], detail["msg"])
        if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            near = difflib.get_close_matches(field_name, Provider.__dataclass_fields__, n=1)
            zh, en = (f"{zh}；是否指 {near[0]}", f"{en}; is {near[0]} meant") if near else (zh, en)
        yield Text(f"{file}：[{name}] {field_name}：{zh}", f"{file}: [{name}] {field_name}: {en}")


def _fault(kind: str, message: str) -> tuple[str, str]:
    english = message.removeprefix("Value error, ")
    match kind:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return "没有这个字段", "there is no such field"
        case "missing" | "missing_argument":
            return "必须填写", "must be given"
        case "string_type" | "string_too_short" | "string_pattern_mismatch":
            return "应当是一段有效的文字", english
        case "tuple_type" | "list_type":
            return '应当是列表，例如 ["…"]', 'must be a list, such as ["..."]'
        case "literal_error":
            return f"不能这样写；可用的有：{english.removeprefix('Input should be ')}", english
        case "value_error":
            return "需要中文（zh）和英文（en）", english
        case _ if kind.startswith("int") or kind in ("greater_than_equal", "less_than_equal"):
            return "应当是有效的整数", english
    return f"不能这样写（{english}）", english


def _like_nothing(file: str, name: str, like: str, rows: Collection[str]) -> Text:
    near = difflib.get_close_matches(like, rows, n=1)
    zh, en = (f"；是否指 {near[0]}", f"; is {near[0]} meant") if near else ("", "")
    return Text(
        f"{file}：[{name}] like：没有“{like}”这一行，或两行互相参照{zh}",
        f"{file}: [{name}] like: there is no row {like!r}, or two are like one another{en}",
    )


def _contested(rows: Iterable[Provider], written: Mapping[str, str]) -> Iterator[Text]:
    """Words and domains that two rows claim: nobody could say whom a roster means."""
    owners: dict[str, str] = {}
    for row in rows:
        for word in sorted(_words(row)):
            other = owners.setdefault(word, row.name)
            if other != row.name:
                yield Text(
                    f"{written[row.name]}：[{row.name}] aliases：“{word}”已属于 [{other}]",
                    f"{written[row.name]}: [{row.name}] aliases: {word!r} is taken by [{other}]",
                )


_TEMPLATE = Text(
    zh="""\
# 自己的服务商表：放在 BANJIA_HOME 中，文件名为 providers.toml，或用 BANJIA_PROVIDERS 指定。
# 每一行是 [名称]；名称与自带的相同时，只覆盖写出的字段。去掉行首的 # 即生效。
# 用 banjia provider show 名称 查看结果。

# [corp]
# title = { zh = "公司旧邮箱", en = "our old mail" }
# like = "coremail"                    # 照搬另一行的内容（识别特征除外）
# aliases = ["旧邮箱"]                 # 名单 Provider 列中的其他写法
# hosts = ["mail.corp.example"]        # 服务器名的结尾
# domains = ["corp.example"]           # 登录账号的域名
# mx = ["mx.corp.example"]             # MX 记录指向的服务器名的结尾
# imap = [{ host = "mail.corp.example", port = 993, security = "tls" }]
# smtp = [{ host = "mail.corp.example", port = 465 }]
# mechanisms = ["PLAIN", "LOGIN"]      # 登录机制，优先的在前
# user_name = "address"                # address 或 local_part
# secrets = ["password"]               # client_password、password、oauth
# connections = 20                     # 全部成员合计的连接数
# mailbox_connections = 4              # 每个邮箱的连接数
# logins_a_minute = 30                 # 全部成员合计的每分钟登录次数
# connect_seconds = 90                 # 多久之内须有问候（秒），比 BANJIA_CONNECT_SECONDS 更长时有效
# silence_seconds = 300                # 等待答复时最长沉默（秒），比 BANJIA_SILENCE_SECONDS 更长时有效
# answer_seconds = 1800                # 答复须有进展的时间（秒），比 BANJIA_ANSWER_SECONDS 更长时有效
# largest_message = 52428800           # 单封邮件上限（字节）
# download_a_day = 2621440000          # 每个邮箱每天下载（字节）
# upload_a_day = 524288000             # 每个邮箱每天上传（字节）
# quirks = [{ zh = "周末停机维护", en = "down for maintenance at weekends" }]

# [corp.steps]                         # 操作步骤，中英文都要写；可用的有：
#   allow_clients、ip_rules、oauth、read_receipts（管理员），
#   lock、web_login、imap、client_password、receive_range（成员）
# client_password = [
#   { zh = "打开 https://mail.corp.example，点击“设置”。", en = "Open https://mail.corp.example and click Settings." },
#   { zh = "点击“生成客户端密码”。", en = "Click Create client password." },
# ]
""",
    en="""\
# A table of your own: providers.toml in BANJIA_HOME, or the file that BANJIA_PROVIDERS names.
# Each row is [a name]; with the name of one that comes with the program, only the fields that you write are changed.
# Take the # away to put a line into force, and look at the result with banjia provider show NAME.

# [corp]
# title = { zh = "公司旧邮箱", en = "our old mail" }
# like = "coremail"                    # says what another row says, but for its signs
# aliases = ["old mail"]               # other words for it in the Provider column of a roster
# hosts = ["mail.corp.example"]        # ends of the names of its servers
# domains = ["corp.example"]           # domains of its logins
# mx = ["mx.corp.example"]             # ends of the names that MX records point at
# imap = [{ host = "mail.corp.example", port = 993, security = "tls" }]
# smtp = [{ host = "mail.corp.example", port = 465 }]
# mechanisms = ["PLAIN", "LOGIN"]      # how to sign in, the best first
# user_name = "address"                # address or local_part
# secrets = ["password"]               # client_password, password, oauth
# connections = 20                     # of all members together
# mailbox_connections = 4              # of one mailbox
# logins_a_minute = 30                 # of all members together
# connect_seconds = 90                 # until it greets, where longer than BANJIA_CONNECT_SECONDS
# silence_seconds = 300                # without a word while an answer is due, where longer than BANJIA_SILENCE_SECONDS
# answer_seconds = 1800                # in which an answer gets on, where longer than BANJIA_ANSWER_SECONDS
# largest_message = 52428800           # octets
# download_a_day = 2621440000          # octets, a mailbox
# upload_a_day = 524288000             # octets, a mailbox
# quirks = [{ zh = "周末停机维护", en = "down for maintenance at weekends" }]

# [corp.steps]                         # what is to be clicked, in both languages; there are:
#   allow_clients, ip_rules, oauth, read_receipts (the admin's),
#   lock, web_login, imap, client_password, receive_range (the member's)
# client_password = [
#   { zh = "打开 https://mail.corp.example，点击“设置”。", en = "Open https://mail.corp.example and click Settings." },
#   { zh = "点击“生成客户端密码”。", en = "Click Create client password." },
# ]
""",
)
