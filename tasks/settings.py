"""What an admin sets: `BANJIA_*` in the environment, over `banjia.toml` here, over `banjia.toml` in BANJIA_HOME."""

import locale
import os
import tomllib
from datetime import time
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from imapcopy.account import Security
from imapcopy.answers import RuleError, add_own_rules, read_own_rules
from imapcopy.errors import Side
from imapcopy.limits import DEFAULT
from imapcopy.plan import Existing
from models.bilingual import Language, Text
from models.database import NoSuchDatabase
from models.database import database_url as usable
from models.member import LEASE_SECONDS
from models.private_files import NotPrivate, read_private, why_not_counted
from models.providers import use_providers
from models.roster_policy import RosterPolicy, by_host, named_server
from models.rules import TABLES, Rules, parse_rules
from tasks.credentials import SignIns

NEVER = "never"


class SettingsMistake(Exception):
    """A setting that cannot be used; says which, and never its value."""


class AnswersMistaken(Exception):
    """A file of rules for answers cannot be used; `told` names file, row and field."""

    def __init__(self, told: Text) -> None:
        self.told = told
        super().__init__(told.en)


class SettingUnusable(Exception):
    """What a setting names cannot be used; `told` says why, and what to do."""

    def __init__(self, told: Text) -> None:
        super().__init__(told.en)
        self.told = told


def home_directory() -> Path:
    """BANJIA_HOME, or ~/.banjia."""
    return Path(os.environ.get("BANJIA_HOME") or "~/.banjia").expanduser().absolute()


_HERE = Path("banjia.toml")


def settings_files() -> tuple[Path, ...]:
    """Where settings are read from beside the environment; what the first one says counts.

    The working directory may be anybody's: its file counts only when nobody else can have written it.
    """
    here = (_HERE,) if _HERE.exists() and why_not_counted(_HERE) is None else ()
    return (*here, home_directory() / "banjia.toml")


def file_left_out() -> Text | None:
    """Why the file of the working directory does not count; None when it does, or there is none."""
    return why_not_counted(_HERE)


class _WithoutRules(TomlConfigSettingsSource):
    """The settings of a file that may hold rules, too."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return {name: value for name, value in super()._read_file(file_path).items() if name not in TABLES}


class _ListsWithCommas(EnvSettingsSource):
    """The environment: a list is written with commas there, or as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        kinds = (field.annotation, *get_args(field.annotation))
        is_list = any(get_origin(kind) is tuple for kind in kinds)
        if is_list and isinstance(value, str) and not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        return super().decode_complex_value(field_name, field, value)


class Settings(BaseSettings):
    """Every setting, with its default."""

    model_config = SettingsConfigDict(
        env_prefix="BANJIA_", env_nested_delimiter="__", extra="forbid", env_ignore_empty=True
    )

    home: Path = Field(default_factory=home_directory, description="where state, keys, logs and reports are kept")
    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="postgresql://user@host/name or sqlite:///file; default: SQLite in BANJIA_HOME",
    )
    vault_key_file: Path | None = Field(default=None, description="key file; default: keys/vault.key in BANJIA_HOME")
    rules: Path | None = Field(default=None, description="file with the rules for folders; default: banjia.toml")
    providers: Path | None = Field(
        default=None, description="file with what you know of mail services; default: providers.toml in BANJIA_HOME"
    )
    answers: Path | None = Field(
        default=None,
        description="file with own rules for servers' answers; default: answers.toml in BANJIA_HOME",
    )
    look_up_mx: bool = Field(
        default=False, description="ask DNS whose mail a login's domain is, where roster and servers do not say it"
    )
    ca_file: Path | None = Field(default=None, description="a private certificate authority to trust, PEM")
    plain_hosts: tuple[str, ...] = Field(default=(), description="hosts that may be spoken to in clear text")
    source_host: str = Field(default="", description="old server of rows that name none")
    source_port: int | None = Field(default=None, description="its port")
    source_security: Security = Field(default="tls", description="tls, starttls or plain")
    target_host: str = Field(default="", description="new server of rows that name none")
    target_port: int | None = Field(default=None, description="its port")
    target_security: Security = Field(default="tls", description="tls, starttls or plain")
    sign_in: SignIns = Field(
        default=SignIns(), description="how members are signed in at either side, where not with passwords of their own"
    )
    policy: RosterPolicy = Field(
        default=RosterPolicy(), description="what rows of a roster may decide: servers, and whose mail goes where"
    )
    members_at_once: int = Field(default=8, ge=1, le=256, description="members moved at the same time")
    host_connections: int = Field(
        default=8, ge=1, description="connections at the same time to one source server, of all workers together"
    )
    target_connections: int = Field(
        default=16, ge=1, description="connections at the same time into one target server, of all workers together"
    )
    member_connections: int = Field(
        default=8, ge=1, description="connections of one member to a target that takes one message a command"
    )
    existing: Existing = Field(
        default="adopt",
        description="mail that is in a new mailbox already and equals a message of the old one: adopt or copy",
    )
    retry_delays: tuple[float, ...] | None = Field(
        default=None,
        description="seconds before each new try of a member, [] for none; default: what fits the cause",
    )
    connect_seconds: float = Field(
        default=DEFAULT.connect_seconds, gt=0, description="how long a mail server may take to greet"
    )
    silence_seconds: float = Field(
        default=DEFAULT.silence_seconds,
        gt=0,
        description="how long a mail server may say nothing while an answer is due; five times that about one folder",
    )
    answer_seconds: float = Field(
        default=DEFAULT.answer_seconds,
        gt=0,
        description="in each such span an answer must end, or bring 1,000 octets a second",
    )
    lease_seconds: float = Field(
        default=LEASE_SECONDS, gt=0, description="after so long without a sign a runner's members may go to another"
    )
    probe_password: SecretStr = Field(
        default=SecretStr(""),
        description="password for `banjia probe --user`; else asked for, or read from stdin",
    )
    language: Language | None = Field(default=None, description="zh-CN or en; default: the terminal's")
    time_zone: str = Field(default="UTC", description="zone in which reports show times, for example Asia/Shanghai")
    smtp_host: str = Field(default="", description="mail server that sends notices; without it no mail is sent")
    smtp_port: int | None = Field(default=None, description="port of the mail server; default: 465, 587 or 25")
    smtp_security: Security = Field(default="tls", description="encryption of the mail server: tls, starttls or plain")
    smtp_user: str = Field(default="", description="login at the mail server; without it nobody signs in")
    smtp_password_file: Path | None = Field(
        default=None, description="file with its password, readable by you alone; default: `banjia vault set smtp`"
    )
    mail_from: str = Field(default="", description="sender of notices, for example 邮箱搬家 <it@corp.example>")
    notice_contact: str = Field(default="", description="whom members ask and give their passwords to, in your words")
    chat_urls_file: Path | None = Field(
        default=None, description="file with the webhooks of group chats, one a line, readable by you alone"
    )
    admin_addresses: tuple[str, ...] = Field(default=(), description="who gets daily summaries and alarms by mail")
    quiet_hours: str = Field(default="22:00-08:00", description="when no member is written to; or: never")
    quiet_weekends: bool = Field(default=False, description="whether Saturdays and Sundays are quiet, too")
    notice_zone: str = Field(
        default="", description="zone of the quiet hours and of notices; default: the reports' zone"
    )
    reminder_days: tuple[float, ...] = Field(
        default=(2.0, 4.0, 8.0), description="days between an invitation and each of its reminders; no more than these"
    )
    summary_at: str = Field(default="09:00", description="time of the admins' daily summary")
    feishu_app_id: str = Field(default="", description="app that may look up addresses of Feishu or Lark Mail")
    feishu_secret_file: Path | None = Field(
        default=None,
        description="file with the app's secret, readable by you alone; default: `banjia vault set feishu`",
    )
    feishu_domain: str = Field(
        default="https://open.feishu.cn", description="open platform of the app; Lark: https://open.larksuite.com"
    )
    alarm_hours: float = Field(default=4.0, gt=0, description="the same alarm comes once in so many hours")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            _ListsWithCommas(settings_cls),
            *(_WithoutRules(settings_cls, file) for file in settings_files()),
        )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value():
            try:
                usable(url.get_secret_value())
            except NoSuchDatabase as refused:
                raise ValueError(str(refused)) from None
        return url

    @field_validator("quiet_hours")
    @classmethod
    def _hours(cls, hours: str) -> str:
        if hours != NEVER:
            begin, dash, end = hours.partition("-")
            if not dash or _time_of_day(begin) == _time_of_day(end):
                raise ValueError("are written such as 22:00-08:00, or never")
        return hours

    @field_validator("summary_at")
    @classmethod
    def _hour(cls, hour: str) -> str:
        _time_of_day(hour)
        return hour

    @field_validator("time_zone", "notice_zone")
    @classmethod
    def _known_zone(cls, name: str, info: ValidationInfo) -> str:
        if not name and info.field_name == "notice_zone":
            return name
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("is no time zone; write one such as Asia/Shanghai") from None
        return name

    @property
    def database(self) -> str:
        """Its URL, which may hold a password."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'banjia.sqlite'}"

    def named_servers(self, side: Side) -> dict[str, frozenset[int]]:
        """By host, the ports of a side's servers that the admin wrote down: as the default, and in the policy."""
        host, port = (self.source_host, self.source_port) if side == "source" else (self.target_host, self.target_port)
        return by_host([(host, port), *map(named_server, self.policy.named(side))])

    @property
    def key_file(self) -> Path:
        return self.vault_key_file or self.home / "keys" / "vault.key"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def notices_zone(self) -> ZoneInfo:
        return ZoneInfo(self.notice_zone or self.time_zone)

    @property
    def quiet_times(self) -> tuple[time, time] | None:
        """Begin and end of the quiet hours, in the notices' zone."""
        begin, _, end = self.quiet_hours.partition("-")
        return (_time_of_day(begin), _time_of_day(end)) if end else None

    @property
    def summary_time(self) -> time:
        return _time_of_day(self.summary_at)

    @property
    def spoken_language(self) -> Language:
        """The language of the terminal and of the first report page."""
        return self.language or terminal_language()


def _time_of_day(text: str) -> time:
    try:
        hour, minute = text.strip().split(":")
        return time(int(hour), int(minute))
    except ValueError:
        raise ValueError("a time of day is written such as 22:00") from None


def terminal_language() -> Language:
    """The language that the environment asks for."""
    spoken = os.environ.get("LC_ALL") or os.environ.get("LANG") or locale.getlocale()[0] or ""
    return "zh-CN" if spoken.lower().startswith("zh") else "en"


@cache
def settings() -> Settings:
    """The settings of this process; SettingsMistake when one cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsMistake("; ".join(_mistakes(error))) from None
    except SettingsError as error:
        # Pydantic's own sentence quotes nothing but the name.
        raise SettingsMistake(f'{error}: a list is written as JSON, such as \'["a", "b"]\'') from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        files = ", ".join(str(file) for file in settings_files() if file.is_file())
        raise SettingsMistake(f"{files}: {error}") from None


def rules() -> Rules:
    """The admin's rules; RulesMistaken when they cannot be followed."""
    if chosen := settings().rules:
        return parse_rules(read_text(chosen), str(chosen), alone=True)
    for file in settings_files():
        if file.is_file() and TABLES & tomllib.loads(text := read_text(file)).keys():
            return parse_rules(text, str(file))
    return Rules()


def know_own_providers() -> None:
    """Let this process know the admin's own table of providers; ProvidersMistaken when it cannot be used."""
    chosen = settings().providers
    file = chosen or settings().home / "providers.toml"
    use_providers(read_text(file) if chosen or file.is_file() else "", str(file))


def know_own_answers() -> None:
    """Let this process know the admin's own rules for servers' answers; AnswersMistaken when they cannot be used."""
    chosen = settings().answers
    file = chosen or settings().home / "answers.toml"
    try:
        add_own_rules(read_own_rules(read_text(file)) if chosen or file.is_file() else ())
    except RuleError as error:
        raise AnswersMistaken(Text(f"{file}：{error.told.zh}", f"{file}: {error.told.en}")) from None


def read_text(file: Path) -> str:
    """What a file that a setting names holds; SettingsMistake when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsMistake(f"{file}: {error}") from None
    except OSError as error:
        raise SettingsMistake(f"{file}: {error.strerror}") from None


def read_secret(file: Path) -> str:
    """What a file holds that only we may read; SettingUnusable otherwise."""
    try:
        return read_private(file).decode()
    except NotPrivate as open_to_others:
        raise SettingUnusable(open_to_others.told) from None
    except (FileNotFoundError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise SettingUnusable(Text(f"无法读取 {file}：{why}", f"{file} cannot be read: {why}")) from None


def _mistakes(error: ValidationError) -> list[str]:
    found = []
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            found.append(f"banjia.toml: there is no setting {name!r}")
        else:
            found.append(f"{name} (BANJIA_{name.split('.')[0].upper()}): {detail['msg'].removeprefix('Value error, ')}")
    return found
