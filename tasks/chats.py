"""The only door to group chats: Feishu, Lark, DingTalk and WeCom by their robots' own webhooks, others by Apprise."""

import base64
import hashlib
import hmac
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

from imapcopy.account import Server
from imapcopy.redaction import redact
from models.bilingual import Text
from tasks.handed_over import HandedOver, Outcome
from tasks.settings import Settings, SettingUnusable, read_secret

if TYPE_CHECKING:
    from apprise import Apprise

CHAT_SECONDS = 30
LONGEST_ANSWER = 100_000


@dataclass(frozen=True, slots=True)
class Chat:
    """A group chat that an admin reads. The URL is the secret that lets us write there."""

    name: str
    """What it is called where everybody can read: its kind and a digest of its URL."""
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Robot:
    """How a chat service's own webhook is spoken to, and where in its answer it says that it took nothing.

    All of them answer 200 to what they refuse.
    """

    kind: str
    path: str
    payload: str
    """The name of the kind of message; the text is found below it."""
    code: str
    message: str
    busy: frozenset[int]
    """Codes of those who write too often."""


_ROBOTS = (
    _Robot("feishu", "/open-apis/bot/v2/hook/", "msg_type", "code", "msg", frozenset({11232, 9499, 99991400})),
    _Robot("dingtalk", "/robot/send", "msgtype", "errcode", "errmsg", frozenset({130101, 660026})),
    _Robot("wecom", "/cgi-bin/webhook/send", "msgtype", "errcode", "errmsg", frozenset({45009, -1})),
)
"""Lark is Feishu under another name."""

_REFUSALS: dict[tuple[str, int], Text] = {
    ("feishu", 19001): Text(
        "机器人已被删除或 webhook 地址不完整", "the robot was removed, or the address is not complete"
    ),
    ("feishu", 19021): Text(
        "签名不对：地址后加 ?secret= 和机器人的密钥", "wrong signature: append ?secret= and the robot's secret"
    ),
    ("feishu", 19022): Text("本机地址不在机器人的 IP 白名单中", "this machine is not on the robot's list of addresses"),
    ("feishu", 19024): Text("机器人的自定义关键词请设为“搬家”或 Move", "set the robot's keyword to 搬家 or Move"),
    ("dingtalk", 310000): Text(
        "机器人的安全设置拒绝：关键词设为“搬家”或 Move，或在地址后加 &secret=",
        "the robot's security refuses: set its keyword to 搬家 or Move, or append &secret=",
    ),
    ("dingtalk", 300001): Text(
        "机器人已被删除或 webhook 地址不完整", "the robot was removed, or the address is not complete"
    ),
    ("wecom", 93000): Text(
        "机器人已被删除或 webhook 地址不完整", "the robot was removed, or the address is not complete"
    ),
}

_OWN_SCHEMES = {"feishu", "lark", "dingtalk", "wecombot"}


def chats(settings: Settings) -> tuple[Chat, ...]:
    """The chats of the settings; SettingUnusable when one cannot be used."""
    if settings.chat_urls_file is None:
        return ()
    found = []
    lines = read_secret(settings.chat_urls_file).splitlines()
    for number, line in enumerate(lines, start=1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        kind = _kind(url)
        if not kind:
            file = settings.chat_urls_file
            raise SettingUnusable(
                Text(
                    f"{file} 第 {number} 行不是可用的 webhook 地址。飞书、钉钉、企业微信请直接写机器人的 https 地址，"
                    "其他服务写 Apprise 地址。",
                    f"{file} line {number} is no webhook. For Feishu, Lark, DingTalk and WeCom write the robot's own "
                    "https address, for others that of Apprise.",
                )
            )
        found.append(Chat(f"{kind} {hashlib.sha256(url.encode()).hexdigest()[:6]}", url))
    return tuple(found)


def _kind(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        robot = _robot(url)
        safe = parts.scheme == "https" or Server(parts.hostname or "", 80).is_loopback
        return robot.kind if robot and safe else ""
    # Apprise takes any answer with status 200 for a yes, and these services say no with it.
    return parts.scheme if parts.scheme not in _OWN_SCHEMES and _known_to_apprise(url) else ""


def _robot(url: str) -> _Robot | None:
    path = urlsplit(url).path
    return next((robot for robot in _ROBOTS if path.startswith(robot.path)), None)


@cache
def _known_to_apprise(url: str) -> bool:
    return bool(_apprise().add(url))


def _apprise() -> "Apprise":
    from apprise import Apprise

    # What it logs quotes addresses that it does not like, and those are secrets.
    logging.getLogger("apprise").disabled = True
    return Apprise()


def hand_over_to_chat(chat: Chat, subject: str, text: str, settings: Settings) -> HandedOver:
    """Write a message into a chat."""
    robot = _robot(chat.url) if urlsplit(chat.url).scheme in ("http", "https") else None
    if robot is None:
        return _through_apprise(chat, subject, text)
    url, payload = _asked(robot, chat.url, text)
    secrets = [chat.url, *(value for values in parse_qs(urlsplit(chat.url).query).values() for value in values)]
    secrets.append(urlsplit(chat.url).path.rpartition("/")[2])
    request = urllib.request.Request(  # noqa: S310  (http only to this machine, see _kind)
        url, json.dumps(payload, ensure_ascii=False).encode(), {"Content-Type": "application/json; charset=utf-8"}
    )
    context = ssl.create_default_context()
    if settings.ca_file:
        context.load_verify_locations(settings.ca_file)
    try:
        with urllib.request.urlopen(request, timeout=CHAT_SECONDS, context=context) as answer:  # noqa: S310
            content = answer.read(LONGEST_ANSWER)
    except urllib.error.HTTPError as error:
        busy = error.code == 429 or error.code >= 500
        return HandedOver(Outcome.LATER if busy else Outcome.REFUSED, redact(f"HTTP {error.code}", secrets))
    except urllib.error.URLError as error:
        # Wrapped like this is only what happened before the request was out.
        return HandedOver(Outcome.LATER, redact(str(error.reason), secrets))
    except OSError as error:
        return HandedOver(Outcome.UNKNOWN, redact(str(error) or type(error).__name__, secrets))
    return _answered(robot, content, secrets)


def _asked(robot: _Robot, url: str, text: str) -> tuple[str, dict[str, object]]:
    """The address without the secret, and what is sent there, signed where a secret is known."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    secret = query.pop("secret", "")
    payload: dict[str, object] = {robot.payload: "text", "text": {"content": text}}
    if robot.kind == "feishu":
        payload = {robot.payload: "text", "content": {"text": text}}
        if secret:
            at = str(int(time.time()))
            # The documented order: what is to be signed is the key, and nothing is signed with it.
            digest = hmac.new(f"{at}\n{secret}".encode(), b"", hashlib.sha256).digest()
            payload |= {"timestamp": at, "sign": base64.b64encode(digest).decode()}
    elif robot.kind == "dingtalk" and secret:
        at = str(round(time.time() * 1000))
        digest = hmac.new(secret.encode(), f"{at}\n{secret}".encode(), hashlib.sha256).digest()
        query |= {"timestamp": at, "sign": base64.b64encode(digest).decode()}
    return parts._replace(query=urlencode(query)).geturl(), payload


def _answered(robot: _Robot, content: bytes, secrets: list[str]) -> HandedOver:
    try:
        answer = json.loads(content)
        code = int(answer[robot.code])
    except (ValueError, KeyError, TypeError):
        return HandedOver(Outcome.UNKNOWN, redact(content[:200].decode(errors="replace"), secrets))
    if code == 0:
        return HandedOver(Outcome.SENT)
    known = _REFUSALS.get((robot.kind, code))
    said = redact(f"{code} {answer.get(robot.message, '')}", secrets) + (f" ({known.zh}; {known.en})" if known else "")
    return HandedOver(Outcome.LATER if code in robot.busy else Outcome.REFUSED, said)


def _through_apprise(chat: Chat, subject: str, text: str) -> HandedOver:
    from apprise import NotifyFormat

    way = _apprise()
    if not way.add(chat.url):
        return HandedOver(Outcome.REFUSED, "Apprise does not know this address")
    taken = way.notify(body=text, title=subject, body_format=NotifyFormat.TEXT)
    return HandedOver(Outcome.SENT) if taken else HandedOver(Outcome.LATER, "Apprise could not hand it over")
