"""Asks Feishu or Lark which destination addresses exist, and what they are: before any password is asked for.

Through the official SDK, as an app of the company with the permission `mail:user_mailbox`. Nothing is changed there.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imapcopy.redaction import redact
from models.addresses import AddressStatus, Mailbox, Standing
from models.bilingual import Text
from tasks import policy
from tasks.settings import Settings, read_secret

if TYPE_CHECKING:
    from lark_oapi import Client

VAULT_NAME = "feishu"
"""What the vault calls the app's secret."""
AT_ONCE = 50
"""Addresses in one request. No limit is documented; a batch that is refused is asked for in halves."""
SCOPE = "mail:user_mailbox"
SECONDS = 30
TRIES = 6
LONGEST_WAIT = 60.0

_RATE_LIMITED = 99991400
_TOKEN = frozenset({99991661, 99991663, 99991668, 99991671, 99991677})
_SCOPE_MISSING = frozenset({99991672, 99991676, 99991679})
_CREDENTIALS = frozenset({99991543, 10003, 10014})
"""The last two, of the endpoint for tokens, are assumed."""
_NOT_INSTALLED = frozenset({99991662, 99991673})
_INVALID_ADDRESS = 1230001

# The documentation of `mail/v1/users/query` (open.larksuite.com, reference/mail-v1/user/query).
_STANDINGS = {
    1: Standing.INVALID,
    2: Standing.NO_DOMAIN,
    3: Standing.MISSING,
    4: Standing.ENABLED,
    5: Standing.RECYCLED,
    6: Standing.DISABLED,
}
_MAILBOXES = {
    1: Mailbox.MEMBER,
    2: Mailbox.MEMBER_ALIAS,
    3: Mailbox.PUBLIC,
    4: Mailbox.PUBLIC_ALIAS,
    5: Mailbox.GROUP,
    6: Mailbox.GROUP_ALIAS,
}


_SILENCE = Text("地址簿没有回答这个地址。", "The address book said nothing of this address.")


class AddressBookClosed(Exception):
    """The address book cannot be asked; says why and what to click, and holds no secret."""

    def __init__(self, told: Text) -> None:
        super().__init__(told.en)
        self.told = told


class _Refused(Exception):
    """One answer that is no yes."""

    def __init__(self, code: int, said: str, wait: float = 0.0) -> None:
        super().__init__(f"{code} {said}")
        self.code = code
        self.said = said
        self.wait = wait


class AddressBook:
    """Feishu's or Lark's, as one app of the company may see it."""

    def __init__(self, settings: Settings, secret: str) -> None:
        self._domain = settings.feishu_domain.rstrip("/")
        self._service = Text("Lark ", "Lark") if "larksuite" in self._domain else Text("飞书", "Feishu")
        self._silence = _SILENCE.in_language(settings.spoken_language)
        self._app_id = settings.feishu_app_id
        self._secret = secret
        self._client = self._new_client()

    def unknown_addresses(self, emails: Iterable[str]) -> dict[str, AddressStatus]:
        """What each address is, by the address as it was given; AddressBookClosed when nothing can be asked."""
        wanted = list(dict.fromkeys(emails))
        found: dict[str, AddressStatus] = {}
        for at in range(0, len(wanted), AT_ONCE):
            found |= {status.email: status for status in self._asked(wanted[at : at + AT_ONCE])}
        return found

    def _asked(self, emails: Sequence[str]) -> Iterator[AddressStatus]:
        try:
            told = self._patiently(emails)
        except _Refused as refused:
            if refused.code != _INVALID_ADDRESS:
                raise AddressBookClosed(self._meaning(refused)) from None
            if len(emails) == 1:
                yield AddressStatus(emails[0], Standing.INVALID, said=refused.said)
                return
            # One address that it cannot read spoils the batch.
            half = len(emails) // 2
            yield from self._asked(emails[:half])
            yield from self._asked(emails[half:])
            return
        left_out = [email for email in emails if email.casefold() not in told]
        if left_out and len(left_out) < len(emails):
            yield from self._asked(left_out)
            left_out = []
        yield from (AddressStatus(email, Standing.UNTOLD, said=self._silence) for email in left_out)
        yield from (AddressStatus(email, *told[email.casefold()]) for email in emails if email.casefold() in told)

    def _patiently(self, emails: Sequence[str]) -> Mapping[str, tuple[Standing, Mailbox]]:
        """Ask, waiting where that helps, with a new token once where ours is not taken."""
        renewed = False
        for attempt in range(TRIES):
            try:
                return self._once(emails)
            except _Refused as refused:
                if refused.code in _TOKEN and not renewed:
                    renewed = True
                    self._client = self._new_client()
                elif (
                    refused.code != _RATE_LIMITED or attempt == TRIES - 1 or policy.STOP.wait(_pause(refused, attempt))
                ):
                    raise
        raise AssertionError("the last try returns or raises")

    def _once(self, emails: Sequence[str]) -> Mapping[str, tuple[Standing, Mailbox]]:
        from lark_oapi.api.mail.v1 import QueryUserRequest, QueryUserRequestBody
        from lark_oapi.core.exception import ObtainAccessTokenException, UnmarshalException
        from requests import RequestException

        body = QueryUserRequestBody.builder().email_list(list(emails)).build()
        try:
            answer: Any = self._client.mail.v1.user.query(QueryUserRequest.builder().request_body(body).build())
            if answer.code != 0:
                raise self._refusal(answer.code, answer.msg, answer.raw.headers)
            users = (answer.data.user_list if answer.data else None) or []
            return {
                (user.email or "").casefold(): (
                    _STANDINGS.get(user.status, Standing.UNTOLD),
                    _MAILBOXES.get(user.type, Mailbox.NONE),
                )
                for user in users
            }
        except ObtainAccessTokenException as refused:
            raise self._refusal(refused.code, refused.msg, {}) from None
        except RequestException as error:
            raise AddressBookClosed(self._away(type(error).__name__)) from None
        except (ValueError, TypeError, AttributeError, UnmarshalException):
            # The SDK reads whatever came without looking at it.
            raise AddressBookClosed(self._not_understood()) from None

    def _refusal(self, code: object, said: str | None, headers: Mapping[str, str]) -> Exception:
        if not isinstance(code, int):
            return AddressBookClosed(self._not_understood())
        reset = {name.lower(): value for name, value in headers.items()}.get("x-ogw-ratelimit-reset")
        return _Refused(code, redact(said or "", [self._secret]), _seconds(reset))

    def _new_client(self) -> "Client":
        import lark_oapi
        from lark_oapi.core.cache import LocalCache

        _quiet()
        return (
            lark_oapi.Client.builder()
            .app_id(self._app_id)
            .app_secret(self._secret)
            .domain(self._domain)
            # Of our own: the SDK's would go on handing out a token that is not taken any more.
            .cache(LocalCache())
            .timeout(SECONDS)
            .log_level(lark_oapi.LogLevel.ERROR)
            .build()
        )

    def _away(self, what: str) -> Text:
        return Text(
            f"连不上 {self._domain}（{what}）。请检查网络、代理和 BANJIA_FEISHU_DOMAIN。",
            f"{self._domain} cannot be reached ({what}). Check the network, the proxy and BANJIA_FEISHU_DOMAIN.",
        )

    def _not_understood(self) -> Text:
        return Text(
            f"{self._domain} 的回答无法理解。请稍后再试；仍然如此时，请检查代理和 BANJIA_FEISHU_DOMAIN。",
            f"{self._domain} answers in no known way. Try again later; if that stays, check the proxy and "
            "BANJIA_FEISHU_DOMAIN.",
        )

    def _meaning(self, refused: _Refused) -> Text:
        """What a refusal means, and the next click."""
        zh, en = self._service.zh, self._service.en
        app = f"{self._domain}/app/{self._app_id}"
        said = f"{refused.code} {refused.said}".strip()
        if refused.code in _SCOPE_MISSING:
            page = f"{app}/auth?q={SCOPE}&op_from=openapi&token_type=tenant"
            return Text(
                f"{zh}应用缺少权限 {SCOPE}。请打开 {page} 开通，再发布一个新版本（{said}）。",
                f"The {en} app lacks the permission {SCOPE}. Open {page}, grant it and publish a new version ({said}).",
            )
        if refused.code in _CREDENTIALS:
            return Text(
                f"{zh}应用的 App ID 或 App Secret 不对。请在 {app}/baseinfo 查看，"
                f"再运行 banjia vault set {VAULT_NAME}（{said}）。",
                f"The {en} app's App ID or App Secret is wrong. See {app}/baseinfo, then run banjia vault set "
                f"{VAULT_NAME} ({said}).",
            )
        if refused.code in _NOT_INSTALLED:
            return Text(
                f"{zh}应用还没有在企业内启用。请在 {app} 发布版本，并由管理员在{zh}管理后台启用（{said}）。",
                f"The {en} app is not in use in the company. Publish a version at {app}, and let an administrator "
                f"enable it in {en} Admin ({said}).",
            )
        if refused.code == _RATE_LIMITED:
            return Text(
                f"{zh}限制了查询频率，请过几分钟再试（{said}）。",
                f"{en} limits how often it is asked; try again in some minutes ({said}).",
            )
        if refused.code in _TOKEN:
            return Text(
                f"{zh}没有接受应用的访问凭证，换新后仍然如此。请在 {app}/baseinfo 核对应用，"
                f"重置 App Secret，再运行 banjia vault set {VAULT_NAME}（{said}）。",
                f"{en} does not take the app's token, nor a new one. See {app}/baseinfo, reset the App Secret, then "
                f"run banjia vault set {VAULT_NAME} ({said}).",
            )
        return Text(
            f"{zh}拒绝了查询（{said}）。请在 {self._domain} 的文档中查找这个错误码。",
            f"{en} refuses the query ({said}). Look that code up in the documentation at {self._domain}.",
        )


def address_book(settings: Settings, stored: Callable[[str], str | None]) -> AddressBook | None:
    """The address book of the settings; None when there is none. `stored` gives a secret of the vault by its name."""
    if not settings.feishu_app_id:
        return None
    secret = read_secret(settings.feishu_secret_file).strip() if settings.feishu_secret_file else stored(VAULT_NAME)
    if not secret:
        raise AddressBookClosed(
            Text(
                f"没有飞书应用的 App Secret。请运行：banjia vault set {VAULT_NAME}",
                f"There is no App Secret of the Feishu app. Run: banjia vault set {VAULT_NAME}",
            )
        )
    try:
        return AddressBook(settings, secret)
    except ValueError:
        raise AddressBookClosed(
            Text(
                "BANJIA_FEISHU_DOMAIN 应为 https://open.feishu.cn 或 https://open.larksuite.com。",
                "BANJIA_FEISHU_DOMAIN is https://open.feishu.cn or https://open.larksuite.com.",
            )
        ) from None


def _pause(refused: _Refused, attempt: int) -> float:
    """Seconds: what Feishu asks for, else longer each time."""
    own = 2.0**attempt * random.uniform(1, 1.3)  # noqa: S311  (no secret)
    return min(refused.wait or own, LONGEST_WAIT)


def _quiet() -> None:
    """Keep the SDK off stdout, where it writes its log."""
    logging.getLogger("Lark").disabled = True


def _seconds(text: str | None) -> float:
    try:
        return max(float(text or 0), 0.0)
    except ValueError:
        return 0.0
