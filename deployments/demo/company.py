"""An invented company of twelve people, its mail on the old server, and the new server that it moves to.

The mail is the same at every start. Three people cannot be moved at first, each for another reason, and each reason
can be mended: that is what the demo shows. All names, addresses and passwords are made up.
"""

import base64
import csv
import io
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from email.policy import SMTP

from deployments.demo.imap_grammar import MONTHS
from deployments.demo.imap_server import Account, Behaviour, ImapServer

LARGEST_ON_TARGET = 200_000
SMALL_QUOTA = 60_000
USUAL_QUOTA = 100_000_000
CHINA = timezone(timedelta(hours=8))
ROSTER_COLUMNS = (
    *("EmailAddress", "UserName", "Password", "DisplayName", "Department", "Language"),
    *("SourceHost", "SourcePort", "SourceSecurity", "TargetHost", "TargetPort", "TargetSecurity"),
    *("TargetUserName", "TargetPassword"),
)


@dataclass(frozen=True)
class Person:
    """Someone of the company, with an account on both servers."""

    login: str
    name: str
    department: str
    language: str
    messages: int

    @property
    def old_address(self) -> str:
        return f"{self.login}@old.example"

    @property
    def new_address(self) -> str:
        return f"{self.login}@new.example"

    @property
    def old_password(self) -> str:
        # A comma and a quote, so that the roster is a CSV file that needs its quoting.
        return f'old,"{self.login}"!'

    @property
    def new_password(self) -> str:
        return f"new-{self.login}"


PEOPLE = (
    Person("lin.xiaoyu", "林晓雨", "市场部", "zh-CN", 80),
    Person("wang.jianguo", "王建国", "财务部", "zh-CN", 42),
    Person("chen.meiling", "陈美玲", "财务部", "zh-CN", 36),
    Person("zhang.wei", "张伟", "研发部", "zh-CN", 30),
    Person("liu.yang", "刘洋", "研发部", "zh-CN", 24),
    Person("zhao.min", "赵敏", "人力资源部", "zh-CN", 28),
    Person("ouyang.na", "欧阳娜", "销售部", "zh-CN", 44),
    Person("sun.lei", "孙磊", "销售部", "zh-CN", 20),
    Person("emma.clark", "Emma Clark", "Overseas", "en", 38),
    Person("david.miller", "David Miller", "Overseas", "en", 22),
    Person("sofia.rossi", "Sofía Rossi", "Overseas", "en", 26),
    Person("service", "客户服务 Service", "销售部", "zh-CN", 34),
)
WRONG_PASSWORD = PEOPLE[3]
FULL_MAILBOX = PEOPLE[6]
LARGE_MESSAGE = PEOPLE[8]

# Folder -> its special use and its share of a person's mail.
FOLDERS: dict[str, tuple[str | None, int]] = {
    "INBOX": (None, 8),
    "已发送": ("\\Sent", 4),
    "草稿箱": ("\\Drafts", 1),
    "已删除": ("\\Trash", 1),
    "垃圾邮件": ("\\Junk", 1),
    "项目/2025 预算": (None, 2),
    "客户/华东": (None, 2),
    "Archive/2023": (None, 1),
    "旧资料": (None, 0),
}
SUBJECTS = (
    *("2025 年度预算初稿，请审阅", "关于下周一部门例会的通知", "华东客户拜访纪要", "合同盖章进度", "Re: 发票抬头更正"),
    *("出差报销单", "新员工入职安排", "【提醒】服务器维护窗口", "转发：供应商报价对比", "周报 第32周"),
    *("Quarterly forecast", "Re: Shipping dates for the Hamburg order", "Lunch on Thursday?", "Minutes of the call"),
    *("Fwd: Visa documents", "Invoice 2024-0713", "Réunion à Genève – ordre du jour"),
)
LINES = (
    *("各位同事，附件是最新版本，请在周五前反馈意见。", "客户希望把交货期提前到月底，麻烦确认产能。"),
    *("会议改到下午三点，地点不变。", "辛苦了，收到请回复。", "Please find the figures attached; comments by Friday."),
    *("Thanks, that works for us.", "Could you confirm the quantities before we book the vessel?"),
)
FLAGS = (
    *((), ("\\Seen",), ("\\Seen",), ("\\Seen",), ("\\Seen", "\\Answered"), ("\\Flagged",), ("\\Seen", "$Forwarded")),
    *(("\\Seen", "$MDNSent"), ("\\Seen", "\\Flagged", "$Label1"), ("$Label2",)),
)
ODD_DATES = (
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1996, 2, 29, 23, 59, 59, tzinfo=CHINA),
    datetime(2024, 3, 31, 2, 30, tzinfo=timezone(timedelta(hours=2))),  # the hour that summer time leaves out
    datetime(2024, 11, 3, 1, 30, tzinfo=timezone(timedelta(hours=-4))),  # the hour that comes twice in New York
    datetime(2023, 7, 1, 12, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
)


def old_company(behaviour: Behaviour | None = None) -> ImapServer:
    """Return the old server with everybody's mail, not yet started."""
    server = ImapServer("old.example", behaviour=behaviour)
    for person in PEOPLE:
        _fill(server.add_account(person.old_address, person.old_password), person)
    return server


def new_company(behaviour: Behaviour | None = None) -> ImapServer:
    """Return the new server with empty mailboxes, one of them too small, and a limit for messages; not yet started."""
    limited = replace(
        behaviour or Behaviour(),
        max_message_bytes=LARGEST_ON_TARGET,
        quota_bytes=USUAL_QUOTA,
        quotas={FULL_MAILBOX.new_address: SMALL_QUOTA},
    )
    server = ImapServer("new.example", behaviour=limited)
    for person in PEOPLE:
        account = server.add_account(person.new_address, person.new_password)
        for name in ("Sent", "Drafts", "Trash", "Junk"):
            account.create(name, f"\\{name}")
    return server


def give_room(server: ImapServer) -> None:
    """Give the mailbox that is too small the room of the others."""
    server.behaviour.quotas = {}


def allow_large(server: ImapServer) -> None:
    """Let the new server accept messages of any size."""
    server.behaviour.max_message_bytes = None


def roster_csv(old_port: int, new_port: int, mended: bool = False) -> str:
    """Return the roster; one password in it is wrong until it is mended."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerow(ROSTER_COLUMNS)
    for person in PEOPLE:
        password = person.old_password if mended or person is not WRONG_PASSWORD else "forgotten-2019"
        rows.writerow(
            (
                *(person.new_address, person.old_address, password, person.name, person.department, person.language),
                *("127.0.0.1", old_port, "plain", "127.0.0.1", new_port, "plain"),
                *(person.new_address, person.new_password),
            )
        )
    return text.getvalue()


def message_count(server: ImapServer) -> int:
    return sum(len(folder.messages) for name in server.addresses for folder in server.account(name).folders)


def _fill(account: Account, person: Person) -> None:
    # A number that is the same in every process, as hash() of a text is not.
    chance = random.Random(zlib.crc32(person.login.encode("ascii")))
    for name, (special_use, _) in FOLDERS.items():
        if account.find(name) is None:
            account.create(name, special_use)
        account.subscriptions.add(name)
    names = list(FOLDERS)
    shares = [share for _, share in FOLDERS.values()]
    # Every folder that has a share gets a message, chance decides on the rest.
    drawn = [name for name in names if FOLDERS[name][1]]
    drawn += chance.choices(names, shares, k=person.messages - len(drawn))
    for number, name in enumerate(sorted(drawn, key=names.index)):
        arrived = _arrival(chance, number)
        flags = ("\\Seen", "\\Draft") if name == "草稿箱" else chance.choice(FLAGS)
        account.folder(name).deliver(_mail(chance, person, number, arrived), arrived, flags)
    inbox = account.folder("INBOX")
    if PEOPLE.index(person) % 3 == 0:
        for number, raw in enumerate(_odd_messages(person)):
            inbox.deliver(raw, ODD_DATES[number % len(ODD_DATES)], ("\\Seen",))
    if person is LARGE_MESSAGE:
        blob = base64.encodebytes(chance.randbytes(220_000)).replace(b"\n", b"\r\n")
        head = _head(person, "large", "Catalogue 2025, print quality", datetime(2025, 9, 1, 9, 30, tzinfo=UTC))
        inbox.deliver(
            head + b"Content-Transfer-Encoding: base64\r\n\r\n" + blob, datetime(2025, 9, 1, 9, 31, tzinfo=UTC)
        )


def _arrival(chance: random.Random, number: int) -> datetime:
    start = datetime(2023, 1, 3, 8, 0, tzinfo=CHINA)
    return start + timedelta(days=number * 14 % 1180, seconds=chance.randrange(36_000))


def _head(person: Person, ident: str, subject: str, sent: datetime, charset: str = "utf-8") -> bytes:
    """Return the first lines of a message, its subject spelled as RFC 2047 asks."""
    coded = base64.b64encode(subject.encode(charset)).decode("ascii")
    lines = (
        f"From: =?utf-8?B?{base64.b64encode(person.name.encode()).decode('ascii')}?= <{person.old_address}>",
        "To: team@old.example",
        f"Subject: =?{charset}?B?{coded}?=" if not subject.isascii() else f"Subject: {subject}",
        f"Date: {sent.day} {MONTHS[sent.month - 1]} {sent:%Y %H:%M:%S %z}",
        f"Message-ID: <{ident}.{person.login}@old.example>",
        "MIME-Version: 1.0",
    )
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _mail(chance: random.Random, person: Person, number: int, sent: datetime) -> bytes:
    """Return an everyday message: text, some with HTML beside it, some with a picture or a file."""
    subject, text = chance.choice(SUBJECTS), "\n".join(chance.choices(LINES, k=chance.randrange(2, 12)))
    body = EmailMessage(policy=SMTP)
    body.set_content(text)
    if number % 2:
        body.add_alternative(f"<html><body><p>{text.replace(chr(10), '<br>')}</p></body></html>", subtype="html")
    if number % 5 == 2:
        body.add_attachment(_picture(chance), maintype="image", subtype="png", filename="logo.png")
    if number % 7 == 3:
        blob = b"%PDF-1.4\n" + chance.randbytes(chance.randrange(2_000, 40_000)) + b"\n%%EOF\n"
        body.add_attachment(blob, maintype="application", subtype="pdf", filename=f"{subject[:8]}（定稿）.pdf")
    for place, part in enumerate(body.walk()):
        if part.is_multipart():
            # Python would draw another one at every start.
            part.set_boundary(f"----=_part_{number}_{place}")
    del body["MIME-Version"]
    can_be_gbk = number % 4 == 0 and all(letter.isascii() or "一" <= letter <= "鿿" for letter in subject)
    return _head(person, f"{number:04}", subject, sent, "GBK" if can_be_gbk else "utf-8") + body.as_bytes()


def _picture(chance: random.Random) -> bytes:
    """Return a PNG of 16 by 16 points."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    points = b"".join(b"\0" + chance.randbytes(48) for _ in range(16))
    size = (16).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(points)) + chunk(b"IEND", b"")


def _odd_messages(person: Person) -> Iterator[bytes]:
    """Yield what old mailboxes hold and careless tools lose."""
    sent = datetime(2024, 5, 6, 7, 8, 9, tzinfo=CHINA)
    twice = _head(person, "twice", "Sent twice, kept twice", sent) + b"\r\nThe same message again.\r\n"
    yield twice
    yield twice
    head = _head(person, "bare-lf", "Lines that end in LF alone", sent)
    yield (head + b"\r\nWritten by a script on a Unix host.\r\n").replace(b"\r\n", b"\n")
    head = _head(person, "none", "没有 Message-ID 的邮件", sent)
    yield (
        b"".join(line for line in head.splitlines(True) if not line.startswith(b"Message-ID")) + "\r\n你好\r\n".encode()
    )
    raw_subject = "Subject: 未编码的中文标题\r\n".encode("gbk")
    yield (
        b"From: fax@old.example\r\nDate: Mon, 6 May 2024 07:08:09 +0800\r\n"
        + raw_subject
        + b"\r\n"
        + b"x" * 1200
        + b"\r\n"
    )
