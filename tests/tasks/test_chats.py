"""The door to group chats: the documented shapes, and a no that comes with status 200."""

import base64
import hashlib
import hmac
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.chats import Chat, chats, hand_over_to_chat
from tasks.handed_over import HandedOver, Outcome
from tasks.settings import Settings, SettingUnusable
from tests.servers.chat import HANG_UP, ChatRoom, running_chats

# Apprise's mail plugin loads a module that Python 3.13 has no more.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TOKEN, SECRET = "canary-hook-token-1", "canary-robot-secret-1"
FEISHU = f"/open-apis/bot/v2/hook/{TOKEN}"
DINGTALK = f"/robot/send?access_token={TOKEN}"
WECOM = f"/cgi-bin/webhook/send?key={TOKEN}"


@pytest.fixture
def room() -> Iterator[ChatRoom]:
    with running_chats() as found:
        yield found


def listed(tmp_path: Path, *lines: str) -> Settings:
    file = tmp_path / "chats"
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    return Settings(chat_urls_file=file)


def hand_over(room: ChatRoom, tmp_path: Path, path: str, text: str = "搬家：两个邮箱已搬完") -> HandedOver:
    settings = listed(tmp_path, room.url + path)
    (chat,) = chats(settings)
    return hand_over_to_chat(chat, "搬家", text, settings)


def test_feishu_and_lark_get_a_text_signed_where_a_secret_is_given(room: ChatRoom, tmp_path: Path) -> None:
    assert hand_over(room, tmp_path, FEISHU) == HandedOver(Outcome.SENT)
    assert hand_over(room, tmp_path, f"{FEISHU}?secret={SECRET}") == HandedOver(Outcome.SENT)
    plain, signed = (each.body for each in room.received)
    assert plain == {"msg_type": "text", "content": {"text": "搬家：两个邮箱已搬完"}}
    digest = hmac.new(f"{signed['timestamp']}\n{SECRET}".encode(), b"", hashlib.sha256).digest()
    assert signed["sign"] == base64.b64encode(digest).decode()
    assert room.received[1].query == {}


def test_dingtalk_gets_its_signature_in_the_address(room: ChatRoom, tmp_path: Path) -> None:
    assert hand_over(room, tmp_path, f"{DINGTALK}&secret={SECRET}") == HandedOver(Outcome.SENT)
    (received,) = room.received
    assert received.body == {"msgtype": "text", "text": {"content": "搬家：两个邮箱已搬完"}}
    query = received.query
    digest = hmac.new(SECRET.encode(), f"{query['timestamp']}\n{SECRET}".encode(), hashlib.sha256).digest()
    assert query["sign"] == base64.b64encode(digest).decode()
    assert set(query) == {"access_token", "timestamp", "sign"}


def test_wecom_gets_a_text(room: ChatRoom, tmp_path: Path) -> None:
    assert hand_over(room, tmp_path, WECOM) == HandedOver(Outcome.SENT)
    (received,) = room.received
    assert (received.body, received.query) == (
        {"msgtype": "text", "text": {"content": "搬家：两个邮箱已搬完"}},
        {"key": TOKEN},
    )


@pytest.mark.parametrize(
    ("path", "answer", "outcome", "said"),
    [
        (FEISHU, {"code": 19021, "msg": "sign match fail"}, Outcome.REFUSED, "secret"),
        (FEISHU, {"code": 19024, "msg": "Key Words Not Found"}, Outcome.REFUSED, "关键词"),
        (FEISHU, {"code": 19001, "msg": f"token {TOKEN} invalid"}, Outcome.REFUSED, "19001 token *** invalid"),
        (FEISHU, {"code": 11232, "msg": "frequency limited"}, Outcome.LATER, "11232"),
        (DINGTALK, {"errcode": 310000, "errmsg": "keywords not in content"}, Outcome.REFUSED, "&secret="),
        (DINGTALK, {"errcode": 130101, "errmsg": "send too fast"}, Outcome.LATER, "130101"),
        (WECOM, {"errcode": 93000, "errmsg": "invalid webhook url"}, Outcome.REFUSED, "removed"),
        (WECOM, {"errcode": 45009, "errmsg": "api freq out of limit"}, Outcome.LATER, "45009"),
        (WECOM, b"<html>all is well</html>", Outcome.UNKNOWN, "all is well"),
        (FEISHU, b"[]", Outcome.UNKNOWN, ""),
    ],
)
def test_a_no_with_status_200_is_a_no(
    room: ChatRoom, tmp_path: Path, path: str, answer: object, outcome: Outcome, said: str
) -> None:
    room.instead.append((200, answer))
    result = hand_over(room, tmp_path, path)
    assert result.outcome == outcome
    assert said in result.said
    assert "canary" not in result.said


@pytest.mark.parametrize(
    ("status", "outcome"), [(404, Outcome.REFUSED), (429, Outcome.LATER), (500, Outcome.LATER), (503, Outcome.LATER)]
)
def test_other_statuses(room: ChatRoom, tmp_path: Path, status: int, outcome: Outcome) -> None:
    room.instead.append((status, b""))
    assert hand_over(room, tmp_path, FEISHU) == HandedOver(outcome, f"HTTP {status}")


def test_a_chat_that_hangs_up_after_the_message_may_have_it_and_one_that_is_away_has_not(
    room: ChatRoom, tmp_path: Path
) -> None:
    room.instead.append(HANG_UP)
    assert hand_over(room, tmp_path, FEISHU).outcome == Outcome.UNKNOWN
    settings = listed(tmp_path, f"http://127.0.0.1:9{FEISHU}")
    assert hand_over_to_chat(chats(settings)[0], "s", "t", settings).outcome == Outcome.LATER


def test_other_services_are_reached_through_apprise(room: ChatRoom, tmp_path: Path) -> None:
    address = room.url.replace("http://", "json://") + "/hook"
    settings = listed(tmp_path, address)
    (chat,) = chats(settings)
    assert hand_over_to_chat(chat, "搬家", "正文", settings) == HandedOver(Outcome.SENT)
    (received,) = room.received
    assert (received.body["title"], received.body["message"]) == ("搬家", "正文")
    room.instead.append((500, b""))
    assert hand_over_to_chat(chat, "搬家", "正文", settings).outcome == Outcome.LATER


def test_the_file_of_chats_may_have_comments_and_names_its_chats_without_their_secrets(tmp_path: Path) -> None:
    found = chats(
        listed(
            tmp_path,
            "# the admins",
            "",
            f"https://open.feishu.cn{FEISHU}",
            f"https://open.larksuite.com{FEISHU}",
            f"https://oapi.dingtalk.com{DINGTALK}",
            f"https://qyapi.weixin.qq.com{WECOM}",
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/",
        )
    )
    assert [chat.name.split()[0] for chat in found] == ["feishu", "feishu", "dingtalk", "wecom", "slack"]
    assert len({chat.name for chat in found}) == 5
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    "line",
    [
        f"feishu://{TOKEN}",
        f"wecombot://{TOKEN}",
        f"http://open.feishu.cn{FEISHU}",
        f"https://open.feishu.cn/somewhere/{TOKEN}",
        TOKEN,
        f"nothing://{TOKEN}",
    ],
)
def test_an_address_that_cannot_be_used_is_named_by_its_line_and_not_shown(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Apprise's own plugins for these four take any answer with status 200 for a yes."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SettingUnusable, match="line 2") as caught:
        chats(listed(tmp_path, "# one", line))
    assert TOKEN not in f"{caught.value!r}{caplog.text}{capfd.readouterr()}"


def test_a_file_of_chats_that_others_can_read_is_refused(tmp_path: Path) -> None:
    settings = listed(tmp_path, f"https://open.feishu.cn{FEISHU}")
    assert settings.chat_urls_file is not None
    settings.chat_urls_file.chmod(0o644)
    with pytest.raises(SettingUnusable, match="chmod 600"):
        chats(settings)


def test_a_chat_never_shows_its_address() -> None:
    assert TOKEN not in repr(Chat("feishu 1a2b3c", f"https://open.feishu.cn{FEISHU}"))
