"""`banjia notices`: look at what people would be told, send what is due, see what became of it."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import typer

from console.lines import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from models.bilingual import LANGUAGES, Language, Text
from models.columns import now
from models.notices import (
    MEMBER_KINDS,
    NOTICE_KIND_NAMES,
    NOTICE_STATE_NAMES,
    NewNotice,
    Notice,
    NoticeKind,
    NoticeState,
    open_notices,
    send_again,
)
from models.private_files import make_folder, write_private
from tasks.notice_letters import Look
from tasks.notice_mail import composed
from tasks.notices import Told, configured, due_notices, tell_wave
from tasks.settings import settings
from tasks.store import store

_NO_KIND = Text(
    "没有“{kind}”这种通知，可用的有：{kinds}。", "There is no kind of notice called {kind!r}; there are: {kinds}."
)
_NO_LANGUAGE = Text("语言只能是 zh-CN 或 en。", "The language is zh-CN or en.")
_NO_MEMBER = Text("批次中没有地址为“{email}”的成员。", "The wave has no member with the address {email!r}.")
_NOT_CONFIGURED = Text(
    "还没有设置发信服务器或群聊。请设置 BANJIA_SMTP_HOST 和 BANJIA_MAIL_FROM，或 BANJIA_CHAT_URLS_FILE。",
    "Neither a mail server nor a chat is set. Set BANJIA_SMTP_HOST and BANJIA_MAIL_FROM, or BANJIA_CHAT_URLS_FILE.",
)
_RESULT = Text(
    "已发送 {sent}，稍后再试 {later}，被拒 {refused}，不确定 {unknown}。",
    "Sent {sent}, to be tried again {later}, refused {refused}, perhaps sent {unknown}.",
)
_QUIET = Text(
    "现在是安静时段，成员的通知从 {when} 起发送（--now 立即发送）。",
    "These are quiet hours: members are written to from {when} on (--now sends at once).",
)
_TROUBLE = Text("发信服务器：{said}", "Mail server: {said}")
_DUE = Text("到期未发的通知：{n} 个", "Notices that are due: {n}")
_NOT_OPEN = Text(
    "这个批次还没有开始给成员发通知：banjia notices send {wave}",
    "The members of this wave are not written to yet: banjia notices send {wave}",
)
_NOBODY = Text("{n} 个成员没有可用的通知地址：{who}", "Members without an address to write to: {n} ({who})")
_NEXT = Text("下次尝试：{when}", "Next try: {when}")
_SHOWN = 20
_PREVIEW_SENDER = "preview@example.invalid"


def preview(
    wave: str, kinds: Sequence[str] | None, member: str | None, spoken: str | None, out: Path, *, as_json: bool
) -> None:
    """Write the notices of one member, and the admins', as they would be now."""
    kept = store()
    look = Look(kept, wave, now())
    wanted = _kinds(kinds)
    languages = [each for each in LANGUAGES if spoken in (None, each)]
    if not languages:
        raise fail(_NO_LANGUAGE.in_language(language()), Exit.USAGE)
    of = _member(look, member)
    written = []
    make_folder(out)
    for kind in wanted:
        example = look.example(kind, of)
        if example is not None:
            for each in languages:
                written += _write(look, example, each, out, kept.settings.mail_from or _PREVIEW_SENDER)
    say({"wave": wave, "files": [str(file) for file in written]}, as_json=True) if as_json else _list(written)


def _write(look: Look, notice: Notice, spoken: Language, out: Path, sender: str) -> list[Path]:
    mail = look.mail(notice, spoken)
    name = f"{notice.kind}.{spoken}"
    files = {
        out / f"{name}.html": mail.html.encode(),
        out / f"{name}.txt": mail.text.encode(),
        out / f"{name}.eml": composed(mail, sender).as_bytes(),
    }
    for file, content in files.items():
        write_private(file, content, durable=False)
    return list(files)


def _list(written: list[Path]) -> None:
    for file in written:
        typer.echo(str(file))


def send(wave: str, kinds: Sequence[str] | None, *, dry_run: bool, again: bool, at_once: bool, as_json: bool) -> None:
    """Open the wave's notices, and hand over what is due."""
    kept, wanted = store(), _kinds(kinds)
    if not configured(kept.settings):
        raise fail(_NOT_CONFIGURED.in_language(language()), Exit.USAGE)
    if dry_run:
        _say_due(wave, due_notices(kept, wave, wanted), as_json=as_json)
        return
    if set(wanted) & set(MEMBER_KINDS):
        open_notices(kept.engine, wave)
    if again:
        send_again(kept.engine, wave, wanted)
    told = tell_wave(kept, wave, kinds=wanted, in_quiet_hours=at_once, patient=False)
    _say_told(wave, told, as_json=as_json)
    if told.trouble or told.refused or told.unknown or told.later:
        raise typer.Exit(Exit.PARTIAL)


def _say_due(wave: str, due: Sequence[NewNotice], *, as_json: bool) -> None:
    if as_json:
        listed = [{"kind": each.kind, "recipient": each.recipient, "about": each.about} for each in due]
        say({"wave": wave, "due": listed}, as_json=True)
        return
    console, spoken = screen(as_json=False), language()
    console.print(_DUE.format(n=len(due)).in_language(spoken))
    for each in due:
        console.print(plain(f"  {NOTICE_KIND_NAMES[each.kind].in_language(spoken)}  {each.recipient}  {each.about}"))


def _say_told(wave: str, told: Told, *, as_json: bool) -> None:
    if as_json:
        document = {
            "wave": wave,
            "sent": told.sent,
            "later": told.later,
            "refused": told.refused,
            "unknown": told.unknown,
            "quiet_until": told.quiet_until.isoformat() if told.quiet_until else None,
            "trouble": told.trouble,
        }
        say(document, as_json=True)
        return
    console, spoken = screen(as_json=False), language()
    counts = _RESULT.format(sent=told.sent, later=told.later, refused=told.refused, unknown=told.unknown)
    console.print(counts.in_language(spoken))
    if told.quiet_until:
        console.print(_QUIET.format(when=_moment(told.quiet_until)).in_language(spoken))
    if told.trouble:
        console.print(plain(_TROUBLE.format(said=told.trouble).in_language(spoken)))


def show(wave: str, *, as_json: bool) -> None:
    """Show how many notices are in which state, and those that somebody has to look at."""
    kept = store()
    look = Look(kept, wave, now())
    notices = look.notices
    unreached = [person.new_address for person in look.people if not person.address]
    if as_json:
        say(
            {
                "wave": wave,
                "members_since": look.facts.opened_at.isoformat() if look.facts.opened_at else None,
                "notices": [_document(notice, look) for notice in notices],
                "without_address": unreached,
            },
            as_json=True,
        )
        return
    console, spoken = screen(as_json=False), language()
    if look.facts.opened_at is None:
        console.print(plain(_NOT_OPEN.format(wave=shlex.quote(wave)).in_language(spoken)))
    for (kind, state), count in sorted(Counter((notice.kind, notice.state) for notice in notices).items()):
        name = NOTICE_KIND_NAMES[kind].in_language(spoken)
        console.print(f"{name}  {NOTICE_STATE_NAMES[state].in_language(spoken)}  {count:,}")
    for (state, error), concerned in _in_trouble(notices).items():
        console.print(plain(f"  {NOTICE_STATE_NAMES[state].in_language(spoken)}  {error}"))
        if state == NoticeState.WAITING:
            console.print(plain(f"    {_NEXT.format(when=_moment(concerned[0].next_at)).in_language(spoken)}"))
        console.print(plain(f"    {_listed([notice.recipient for notice in concerned])}"))
    if unreached:
        console.print(plain(_NOBODY.format(n=len(unreached), who=_listed(unreached)).in_language(spoken)))


def _in_trouble(notices: Sequence[Notice]) -> dict[tuple[NoticeState, str], list[Notice]]:
    """What somebody has to look at, by what went wrong; of each what is tried next comes first."""
    found: dict[tuple[NoticeState, str], list[Notice]] = defaultdict(list)
    for notice in sorted(notices, key=lambda each: each.next_at):
        if notice.error and notice.state not in {NoticeState.SENT, NoticeState.DROPPED}:
            found[notice.state, notice.error].append(notice)
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" +{len(names) - _SHOWN}" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _moment(at: datetime) -> str:
    return f"{at.astimezone(settings().notices_zone):%Y-%m-%d %H:%M %Z}"


def _document(notice: Notice, look: Look) -> dict[str, object]:
    return {
        "kind": notice.kind,
        "member": look.names.get(notice.member_id or 0),
        "channel": notice.channel,
        "recipient": notice.recipient,
        "about": notice.about,
        "state": notice.state,
        "due_at": notice.due_at.isoformat(),
        "next_at": notice.next_at.isoformat(),
        "sent_at": notice.sent_at.isoformat() if notice.sent_at else None,
        "attempts": notice.attempts,
        "error": notice.error,
        "bounced": notice.bounced,
    }


def _kinds(names: Sequence[str] | None) -> tuple[NoticeKind, ...]:
    for name in names or ():
        if name not in set(NoticeKind):
            told = _NO_KIND.format(kind=name, kinds=", ".join(NoticeKind))
            raise fail(told.in_language(language()), Exit.USAGE)
    return tuple(NoticeKind(name) for name in names or NoticeKind)


def _member(look: Look, email: str | None) -> int | None:
    if email is None:
        return next(iter(look.members), None)
    for each, member in look.members.items():
        if member.email.casefold() == email.casefold():
            return each
    raise fail(_NO_MEMBER.format(email=email).in_language(language()), Exit.USAGE)
