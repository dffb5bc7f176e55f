"""Letters: each sentence in both languages, the same in every form, and nothing of a stranger's that does anything."""

import re
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bilingual import LANGUAGES, Language
from models.causes import Cause, cause, causes
from models.providers import ANYBODY, STEPS, Provider, provider_named, providers
from models.states import MemberState
from reports.admin_letters import Standing, alarm, daily_summary, time_to_go
from reports.letters import LISTED, LONGEST, Letter, as_chat, as_html, as_text, letter_texts
from reports.member_letters import MemberNotice, completion, invitation, reminder
from reports.preparation import IN_ADVANCE
from reports.summary import MemberSummary
from reports.texts import Wording
from tests.reports.sample import ESCAPE, OVERRIDE, SCRIPT, sample_summary

ZONE = ZoneInfo("Asia/Shanghai")
WORDS: dict[Language, Wording] = {each: Wording(each, ZONE) for each in LANGUAGES}
EN, ZH = WORDS["en"], WORDS["zh-CN"]
AT = datetime(2026, 12, 5, 14, tzinfo=UTC)
NOTICE = MemberNotice(
    old="li@old.example",
    new="li@new.example",
    name="李雷",
    starts_at=AT,
    source=provider_named("netease_qiye"),
    target=provider_named("feishu"),
    contact="IT, ext. 8000",
)
NAMES = {n: f"m{n}@new.example" for n in range(1, 100)}
THEN = Standing(AT, 10, frozenset({1, 2}), {"bad_credentials": frozenset({3})}, 7, 1000, 0)
NOW = Standing(
    AT + timedelta(days=1),
    10,
    frozenset({1, 2, 4, 5}),
    {"bad_credentials": frozenset({3, 6}), "imap_disabled": frozenset({7})},
    3,
    5000,
    2,
    {"login_throttled imap.old.example": 3},
    unread=1,
)


def moved(state: MemberState = MemberState.SYNCED_WITH_ISSUES) -> MemberSummary:
    return next(member for member in sample_summary().members if member.state == state)


def letters(words: Wording) -> dict[str, Letter]:
    """One of each kind, with all that it may say."""
    return {
        "invitation": invitation(NOTICE, words),
        "reminder": reminder(NOTICE, cause("app_password_required"), words),
        "completion": completion(NOTICE, moved(), words),
        "summary": daily_summary("pilot", NOW, THEN, NAMES, words, (4000, timedelta(hours=2))),
        "alarm": alarm("pilot", "login_throttled imap.old.example", [1, 2], NAMES, words, NOW.at),
    }


# Sentences


def test_every_sentence_is_said_and_every_one_that_is_said_exists() -> None:
    modules = ("letters", "preparation", "member_letters", "admin_letters", "sheets")
    source = "".join((files("reports") / f"{name}.py").read_text(encoding="utf-8") for name in modules)
    said = set(re.findall(r"[\"']([a-z]+(?:_[a-z]+)*)[\"']", source)) | {f"any_{kind}" for kind in STEPS}
    assert set(letter_texts()) <= said
    assert set(re.findall(r'\bsay\("(\w+)"', source)) <= set(letter_texts())


def test_what_a_member_may_be_asked_for_has_general_words_and_is_asked_in_advance_but_for_one() -> None:
    of_members = {kind for kind, (turn, _) in STEPS.items() if turn == "member"}
    assert {f"any_{kind}" for kind in of_members} <= set(letter_texts())
    assert of_members - set(IN_ADVANCE["source"]) == {"web_login"}
    asked = {
        each.step for each in causes().values() for side in ("source", "target") if each.at(side).owner == "member"
    }
    assert asked <= of_members | {""}


@pytest.mark.parametrize("name", sorted(letter_texts()))
def test_a_sentence_is_in_both_languages_with_the_same_places(name: str) -> None:
    text = letter_texts()[name]
    places = [{field for _, field, _, _ in string.Formatter().parse(each) if field} for each in (text.zh, text.en)]
    assert places[0] == places[1]
    assert not re.search(r"[\u4e00-\u9fff][,:;!?()]|[,:;!?()][\u4e00-\u9fff]", text.zh)
    assert name == "other_language" or not re.search("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]", text.en)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["invitation", "reminder", "completion", "summary", "alarm"])
def test_text_and_page_say_the_same_and_no_place_is_left_open(language: Language, kind: str) -> None:
    letter = letters(WORDS[language])[kind]
    page, text = as_html(letter, WORDS[language]), as_text(letter)
    seen = Seen(page)
    for section in letter.sections:
        for line in (section.title, *section.lines, *section.steps, *(cell for row in section.rows for cell in row)):
            assert line in text
            assert line in seen.text
    assert not re.search(r"\{\w*\}|None|\\x", text)
    assert f'<html lang="{language}">' in page


# Invitations


def test_an_invitation_has_the_steps_of_the_members_own_services() -> None:
    text = as_text(invitation(NOTICE, ZH))
    assert "2026-12-05 22:00（Asia/Shanghai 时间）" in text
    for kind in ("lock", "imap", "client_password", "receive_range"):
        for step in provider_named("netease_qiye").steps[kind]:  # type: ignore[index]
            assert step.zh in text
    for step in provider_named("feishu").steps["client_password"]:
        assert step.zh in text
    numbers = re.findall(r"第 (\d) 步", text)
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
    assert "http" not in text


@pytest.mark.parametrize("missing", [set(), {"source"}, {"target"}, {"source", "target"}])
def test_nobody_is_asked_for_a_password_that_is_there(missing: set[str]) -> None:
    text = as_text(invitation(replace(NOTICE, missing=frozenset(missing)), EN))
    assert ("Client authorization code" in text) == ("source" in missing)
    assert ("Feishu desktop client" in text) == ("target" in missing)
    assert ("Hand the passwords over" in text) == bool(missing)
    assert "Receive all mail" in text


@pytest.mark.parametrize("provider", providers(), ids=lambda each: each.name)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_service_has_an_invitation_that_says_how_to_get_everything(
    language: Language, provider: Provider
) -> None:
    notice = replace(NOTICE, source=provider, target=provider, starts_at=None, name="", contact="")
    letter = invitation(notice, WORDS[language])
    todo = [section for section in letter.sections if re.match(r"(第 \d+ 步|Step \d+)", section.title)]
    assert len(todo) >= 4
    assert all(section.steps or section.lines for section in todo)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_mailbox_that_keeps_its_address_is_told_by_its_service(words: Wording) -> None:
    kept = replace(NOTICE, old="Li@corp.example", new="li@corp.example")
    for letter in (invitation(kept, words), reminder(kept, cause("bad_credentials"), words)):
        lead = "".join(letter.lead)
        assert words.of(NOTICE.source.title) in lead
        assert words.of(NOTICE.target.title) in lead
        assert "） " not in as_text(letter)
    other = as_text(completion(NOTICE, moved(), words))
    assert words.of(NOTICE.source.title) not in other


# Reminders


@pytest.mark.parametrize(
    "why", [each for each in causes().values() if each.owner == "member"], ids=lambda each: each.id
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_cause_that_a_member_can_cure_has_a_cure_in_its_reminder(language: Language, why: Cause) -> None:
    words = WORDS[language]
    for source in (NOTICE.source, provider_named(ANYBODY)):
        letter = reminder(replace(NOTICE, source=source), why, words)
        todo = [section for section in letter.sections[1:] if section.steps or section.lines]
        assert todo
    title = words.of(why.title)
    assert why.id == "password_missing" or title in as_text(letter)
    # What stands in causes.toml is for admins.
    assert "banjia" not in as_text(letter)


def test_a_reminder_shows_the_steps_of_the_side_where_it_failed() -> None:
    why = cause("app_password_required")
    for side, service in (("source", "NetEase"), ("target", "Feishu Mail")):
        text = as_text(reminder(replace(NOTICE, side=side), why, EN))
        assert service in text
        assert ("Feishu" in text) == (side == "target")


# Completions


def test_a_completion_counts_names_places_and_lists_what_was_not_moved() -> None:
    member = moved()
    text = as_text(completion(NOTICE, member, EN))
    counts = member.counts
    assert f"Messages in the old mailbox  {counts.source:,}" in text
    assert f"Not moved  {counts.issues:,}" in text
    assert all(issue.cause.title.en in text for issue in member.issues)
    assert "brought over later" in text
    finished = as_text(completion(NOTICE, moved(MemberState.COMPLETED), EN))
    assert "use the new mailbox from now on" in finished


def test_long_lists_end_with_how_many_more_there_are() -> None:
    member = moved()
    many = replace(member, issues=(member.issues[0],) * (LISTED + 5))
    text = as_text(completion(NOTICE, many, EN))
    assert "5 more" in text
    assert text.count(member.issues[0].folder) <= LISTED + 3


# Summaries


def test_a_summary_tells_the_difference_and_whose_turn_it_is() -> None:
    letter = daily_summary("pilot", NOW, THEN, NAMES, EN, None)
    text = as_text(letter)
    assert letter.subject == "Move pilot: 4 of 10 mailboxes moved, 3 need attention"
    assert "4 (+2)" in text
    assert "Messages dealt with  5,000 (+4,000)" in text
    assert "■ Moved since\nm4@new.example, m5@new.example\n" in text
    assert f"{cause('bad_credentials').title.en} (member's turn): m6@new.example" in text
    assert f"{cause('bad_credentials').title.en} (member's turn): 1 member" in text
    assert "imap.old.example: " in text
    assert "At the pace" not in text


def test_the_first_summary_has_nothing_to_compare_with() -> None:
    text = as_text(daily_summary("pilot", NOW, None, NAMES, ZH))
    assert "第一份摘要" in text
    assert "（+" not in text


ids = st.frozensets(st.integers(1, 10**6), max_size=30)
standings = st.builds(
    Standing,
    at=st.just(AT),
    all=st.integers(0, 10**6),
    moved=ids,
    attention=st.dictionaries(st.sampled_from(sorted(causes())), ids.filter(bool), max_size=4),
    unfinished=st.integers(0, 10**6),
    messages=st.integers(0, 10**12),
    left_behind=st.integers(0, 10**6),
    waiting=st.dictionaries(st.text(min_size=1), st.integers(0, 10**6), max_size=3),
    unread=st.integers(0, 10**6),
)


@given(standings)
def test_what_is_kept_of_a_summary_is_what_it_told(standing: Standing) -> None:
    assert Standing.read(standing.written()) == standing


def test_ten_thousand_members_are_kept_in_a_few_hundred_octets() -> None:
    standing = replace(NOW, moved=frozenset(range(1, 10_001)))
    assert len(str(standing.written())) < 500


@pytest.mark.parametrize(
    ("left", "done", "elapsed", "told"),
    [
        (1000, 2000, timedelta(hours=1), timedelta(minutes=30)),
        (1000, 0, timedelta(hours=1), None),
        (0, 2000, timedelta(hours=1), None),
        (1000, 2000, timedelta(minutes=9), None),
    ],
)
def test_a_time_to_go_is_told_only_where_it_means_something(
    left: int, done: int, elapsed: timedelta, told: timedelta | None
) -> None:
    assert time_to_go(left, done, elapsed) == told


# Strangers


class Seen(HTMLParser):
    """What a reader sees of a page, and the elements that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", set[str](), set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = [
    SCRIPT,
    OVERRIDE,
    ESCAPE,
    "</h1><img src=x onerror=alert(1)>",
    "a\r\nBcc: x@y",
    "{name}{0}",
    "x" * 9000,
    "{{ 7 * 7 }}",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_stranger_wrote_is_shown_and_does_nothing(language: Language, text: str) -> None:
    words = WORDS[language]
    bad = replace(NOTICE, name=text, old=text, new=text, contact=text)
    folder = replace(moved().folders[0], source_name=text, target_name=text + "!")
    member = replace(moved(), folders=(folder,), issues=tuple(replace(i, folder=text) for i in moved().issues))
    for letter in (
        invitation(bad, words),
        reminder(bad, cause("bad_credentials"), words),
        completion(bad, member, words),
        daily_summary(text, NOW, THEN, dict.fromkeys(NAMES, text), words),
        alarm(text, f"login_throttled {text}", [1], {1: text}, words),
    ):
        seen = Seen(as_html(letter, words))
        assert not {"script", "img", "a", "form", "iframe", "link", "style"} & seen.tags
        assert not {name for name in seen.attributes if name.startswith("on")} | ({"href", "src"} & seen.attributes)
        for shown in (as_text(letter), letter.subject, seen.text):
            assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", shown)
        assert "\n" not in letter.subject
        assert max(map(len, as_text(letter).splitlines())) < 40 * LONGEST


@pytest.mark.parametrize("call", ['<at user_id="all">everybody</at>', "<!channel>", "<!here|now>", "<@U1234>"])
def test_nobody_can_call_a_whole_chat_by_a_folder_or_a_name(call: str) -> None:
    text = as_chat(daily_summary(call, NOW, THEN, dict.fromkeys(NAMES, call), EN))
    assert "<" not in text


def test_a_chat_is_told_no_more_than_it_takes() -> None:
    names = {n: f"{'很长的名字' * 30}{n}@new.example" for n in range(1, 1000)}
    standing = replace(NOW, attention={name: frozenset(range(1, 500)) for name in sorted(causes())[:20]})
    text = as_chat(daily_summary("pilot", standing, None, names, ZH))
    assert len(text.encode()) <= 2048
    assert text.endswith("…")


def test_a_robot_with_a_keyword_lets_every_chat_message_pass() -> None:
    """The keyword that docs/notices.md names for robots that want one."""
    for kind in ("summary", "alarm"):
        assert "搬家" in as_chat(letters(ZH)[kind])
        assert "Move" in as_chat(letters(EN)[kind])
