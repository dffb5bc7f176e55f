"""One row of a roster, and how each of its cells is understood.

`RosterRow` takes the text of a cell as well as the finished value. What it refuses, it refuses with a code of
`models.roster_problems`, and without repeating the cell: it may be a password.
"""

import contextlib
import datetime
import ipaddress
import re
import unicodedata
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr
from pydantic_core import PydanticCustomError

from models.bilingual import Language
from models.roster_problems import FAULTS, visible

Security = Literal["tls", "starttls", "plain"]

# What people paste around a value without seeing it; control characters are not here, they are reported.
BLANKS = (
    " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
    "\u200b\u200c\u200d\u2060\ufeff"
)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_LINE_BREAK = re.compile("[\n\r\u2028\u2029]")
_FULL_WIDTH = re.compile("[\uff01-\uff5e\uffe0-\uffe6\u3001\u3002]")
# A password typed with a Chinese keyboard, or "corrected" by a word processor.
_NOT_TYPED = re.compile("[\uff01-\uff5e\uffe0-\uffe6\u3001-\u303f\u2018-\u201f]")
# Hosts without a dot, `.local` and `.test` are usual inside a company; names and domains may be Chinese.
_LABEL = "(?!-)[0-9A-Za-z_\u0080-\U0010ffff-]+(?<!-)"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ADDRESS = re.compile(rf'[^\s@<>()\[\],;:"\\]+@{_LABEL}(?:\.{_LABEL})*')
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ALMOST_DATE = re.compile(r"(\d{4})\D?(\d{1,2})\D?(\d{1,2})\D?", re.ASCII)

_SECURITY: dict[str, Security] = {
    "tls": "tls", "ssl": "tls", "ssl/tls": "tls", "imaps": "tls",
    "starttls": "starttls",
    "plain": "plain", "none": "plain",
}  # fmt: skip
_YES_NO = {
    "yes": True, "y": True, "true": True, "1": True, "是": True,
    "no": False, "n": False, "false": False, "0": False, "否": False,
}  # fmt: skip
_LANGUAGE: dict[str, Language] = {
    "zh": "zh-CN", "zh-cn": "zh-CN", "zh_cn": "zh-CN", "zh-hans": "zh-CN", "chinese": "zh-CN",
    "中文": "zh-CN", "简体中文": "zh-CN", "汉语": "zh-CN",
    "en": "en", "en-us": "en", "en_us": "en", "en-gb": "en", "english": "en", "英文": "en", "英语": "en",
}  # fmt: skip


def folded_account(account: str) -> str:
    """Write equal addresses equally: case, full-width letters and the two spellings of a Chinese domain."""
    if account.isascii() and "xn--" not in account.lower():
        return account.lower()
    local, at, domain = unicodedata.normalize("NFKC", account).casefold().rpartition("@")
    with contextlib.suppress(UnicodeError):  # no domain name: compared as it stands
        domain = domain.encode("idna").decode()
    return local + at + domain


def is_address(text: str) -> bool:
    """Say whether the text has the shape of a mail address."""
    return len(text) <= 320 and _ADDRESS.fullmatch(text) is not None and text.isprintable()


def _fault(code: str, **places: str) -> PydanticCustomError:
    return PydanticCustomError(code, FAULTS[code][0].en, places)


def _text(value: object) -> object:
    """Take the blanks off; a cell of blanks is no value."""
    if not isinstance(value, str):
        return value
    if not value.isprintable():
        if _LINE_BREAK.search(value):
            raise _fault("line-break")
        if _CONTROL.search(value):
            raise _fault("control-character")
    return value.strip(BLANKS) or None


def _half_width(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("。", ".").replace("、", ",")


def _login(value: object) -> object:
    """Take any login, `Domain/Admin/User` and `user*master` too, unless it has a character nobody sees or types."""
    text = _text(value)
    if not isinstance(text, str):
        return text
    if not text.isprintable():
        raise _fault("invisible-character", suggestion=visible("".join(filter(str.isprintable, text))))
    if _FULL_WIDTH.search(text):
        raise _fault("full-width", suggestion=visible(_half_width(text)))
    return text


def _address(value: object) -> object:
    text = _login(value)
    if isinstance(text, str) and not is_address(text):
        bare = re.sub(r"^mailto:|.*<|>.*|\s", "", text, flags=re.IGNORECASE)
        raise _fault("bad-address", suggestion=visible(bare) if is_address(bare) else "li.lei@example.com")
    return text


def _password(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not _text(text):
        return None if isinstance(text, str) else text
    if text != text.strip(BLANKS):
        raise _fault("password-blanks")
    # A plain blank inside stays: app passwords are shown, and accepted, as "abcd efgh ijkl mnop".
    if not text.isprintable():
        raise _fault("password-invisible")
    if _NOT_TYPED.search(text):
        raise _fault("password-full-width")
    return SecretStr(text)


def _host(value: object) -> object:
    text = _login(value)
    if not isinstance(text, str) or _HOST.fullmatch(text):
        return text
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    scheme, _, rest = text.rpartition("://")
    # What stands before an @ may be a password, and is not repeated.
    host, slash, _path = rest.rpartition("@")[2].partition("/")
    name, _, port = host.rpartition(":")
    bare = (name or host).removesuffix(".")
    if not _HOST.fullmatch(bare) or (name and not port.isdecimal()):
        raise _fault("bad-host")
    if scheme:
        raise _fault("host-scheme", suggestion=visible(bare))
    if slash:
        raise _fault("host-path", suggestion=visible(bare))
    if name:
        raise _fault("host-port", suggestion=visible(bare), port=visible(port))
    if "@" in text:
        raise _fault("bad-host")
    return bare


def _port(value: object) -> object:
    text = _text(value)
    if isinstance(text, str):
        digits = unicodedata.normalize("NFKC", text)
        text = int(digits) if re.fullmatch("[0-9]{1,5}", digits) else 0
    if isinstance(text, int) and not 1 <= text <= 65535:
        raise _fault("bad-port")
    return text


def _date(value: object) -> object:
    text = _text(value)
    if not isinstance(text, str):
        return text
    text = unicodedata.normalize("NFKC", text)
    if _DATE.fullmatch(text):
        try:
            return datetime.date.fromisoformat(text)
        except ValueError:
            raise _fault("bad-date", suggestion="2024-01-31") from None
    suggestion = "2024-01-31"
    if almost := _ALMOST_DATE.fullmatch(text):
        year, month, day = map(int, almost.groups())
        with contextlib.suppress(ValueError):  # no such day: the example must do
            suggestion = datetime.date(year, month, day).isoformat()
    raise _fault("bad-date", suggestion=suggestion)


def _folders(value: object) -> object:
    text = _text(value)
    if not isinstance(text, str):
        return () if text is None else text
    names = (name.strip(BLANKS) for name in re.split("[;|]", text))
    return tuple(dict.fromkeys(name for name in names if name))


def _one_of(words: dict[str, Security] | dict[str, bool] | dict[str, Language], code: str, value: object) -> object:
    text = _text(value)
    if not isinstance(text, str):
        return text
    word = unicodedata.normalize("NFKC", text).casefold()
    if word not in words:
        raise _fault(code)
    return words[word]


def _security(value: object) -> object:
    return _one_of(_SECURITY, "bad-security", value)


def _language(value: object) -> object:
    return _one_of(_LANGUAGE, "bad-language", value)


def _yes_no(value: object) -> object:
    answer = _one_of(_YES_NO, "bad-yes-no", value)
    return False if answer is None else answer


OptionalText = Annotated[str | None, BeforeValidator(_text)]
OptionalLogin = Annotated[str | None, BeforeValidator(_login)]
OptionalAddress = Annotated[str | None, BeforeValidator(_address)]
OptionalPassword = Annotated[SecretStr | None, BeforeValidator(_password)]
OptionalHost = Annotated[str | None, BeforeValidator(_host)]
OptionalPort = Annotated[int | None, BeforeValidator(_port)]
OptionalSecurity = Annotated[Security | None, BeforeValidator(_security)]


class RosterRow(BaseModel):
    """One member as the roster describes them; `line` is where the row starts in the file, the header being line 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    line: int
    email: Annotated[str, BeforeValidator(_address)]
    user_name: Annotated[str, BeforeValidator(_login)]
    password: OptionalPassword = None
    user_root: OptionalText = None
    display_name: OptionalText = None
    department: OptionalText = None
    wave: OptionalText = None
    provider: OptionalText = None
    source_host: OptionalHost = None
    source_port: OptionalPort = None
    source_security: OptionalSecurity = None
    target_host: OptionalHost = None
    target_port: OptionalPort = None
    target_security: OptionalSecurity = None
    target_user_name: OptionalLogin = None
    target_password: OptionalPassword = None
    source_admin: OptionalLogin = None
    target_admin: OptionalLogin = None
    exclude_folders: Annotated[tuple[str, ...], BeforeValidator(_folders)] = ()
    since: Annotated[datetime.date | None, BeforeValidator(_date)] = None
    language: Annotated[Language | None, BeforeValidator(_language)] = None
    notify_address: OptionalAddress = None
    shared: Annotated[bool, BeforeValidator(_yes_no)] = False
    note: OptionalText = None
