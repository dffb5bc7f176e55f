"""The pages: complete, equal in both languages, harmless whatever a name or a server says."""

import hashlib
import io
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import reports.render
from models import private_files
from models.bilingual import LANGUAGES, Language
from models.causes import cause, causes
from models.issues import AlteredFolder, AlteredMessage
from models.states import MemberState, WaveState
from reports.render import ReportFiles, bar, content_security_policy, render_report
from reports.summary import WaveSummary
from reports.texts import INVISIBLE, alteration
from tests.reports.pages import Page, read_page
from tests.reports.sample import (
    ESCAPE,
    MADE_AT,
    OVERRIDE,
    SCRIPT,
    SampleAltered,
    sample_later_summary,
    sample_member,
    sample_rows,
    sample_summary,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.fixture(scope="module")
def summary() -> WaveSummary:
    return sample_summary()


@pytest.fixture(scope="module")
def directory(summary: WaveSummary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    render_report(summary, directory, zone=SHANGHAI, rows=sample_rows(summary), altered=SampleAltered(7))
    return directory


@pytest.fixture(scope="module")
def pages(directory: Path) -> dict[str, Page]:
    return {
        path.relative_to(directory).as_posix(): read_page(path.read_text(encoding="utf-8"))
        for path in directory.rglob("*.html")
    }


def shown(page: Page) -> str:
    return " ".join(page.text.split())


def test_a_report_is_these_files(summary: WaveSummary, tmp_path: Path) -> None:
    written = render_report(summary, tmp_path)
    assert written == ReportFiles(
        html=tmp_path / "wave.html",
        html_zh=tmp_path / "wave.zh-CN.html",
        html_en=tmp_path / "wave.en.html",
        csv=tmp_path / "wave.csv",
        json=tmp_path / "wave.json",
        failures=tmp_path / "failures.csv",
    )
    expected = {"wave.html", "wave.zh-CN.html", "wave.en.html", "wave.csv", "wave.json", "failures.csv", "members"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert {path.name for path in (tmp_path / "members").iterdir()} == {
        f"{member.id}.{language}.html" for member in summary.members for language in LANGUAGES
    }


def test_every_state_is_in_the_sample(summary: WaveSummary) -> None:
    assert {member.state for member in summary.members} == set(MemberState)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_main_page_is_in_the_admins_language(summary: WaveSummary, tmp_path: Path, language: str) -> None:
    written = render_report(replace(summary, members=()), tmp_path, language)  # type: ignore[arg-type]
    assert written.html.read_bytes() == (tmp_path / f"wave.{language}.html").read_bytes()
    assert read_page(written.html.read_text(encoding="utf-8")).values("html", "lang") == [language]


def test_every_page_is_well_formed(pages: dict[str, Page]) -> None:
    assert {name: page.faults for name, page in pages.items() if page.faults} == {}


def test_pages_load_nothing_and_run_nothing(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert page.loading == [], name
        assert page.handlers == [], name
        assert page.values("link", "href") == ["data:,"], name
        assert content_security_policy() in page.values("meta", "content"), name


def test_no_page_names_an_address_elsewhere(directory: Path) -> None:
    for path in directory.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert "://" not in html, path.name
        assert "url(" not in html, path.name
        assert "@import" not in html, path.name


def test_the_policy_admits_the_style_of_the_page(directory: Path) -> None:
    """A browser hashes the bytes between the tags; any other byte there would leave the page bare."""
    style = re.search(r"<style>(.*?)</style>", (directory / "wave.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style
    digest = hashlib.sha256(style.group(1).encode()).digest()
    assert f"'sha256-{b64encode(digest).decode()}'" in content_security_policy()


def test_mail_deleted_at_the_source_meanwhile_is_said(summary: WaveSummary, tmp_path: Path) -> None:
    member = sample_member(4)
    folder = member.folders[0]
    more = replace(folder, counts=replace(folder.counts, copied=folder.counts.copied + 1))
    render_report(replace(summary, members=(replace(member, folders=(more, *member.folders[1:])),)), tmp_path)
    for name in ("wave.en.html", "members/4.en.html"):
        assert "1 more message is counted than the source now holds" in (tmp_path / name).read_text(encoding="utf-8")


FOLLOWED = {
    "en": (
        "Deleted at the source since",
        "Moved with the source",
        "Moved here with",
        "Flags brought up",
        "nothing to do",
    ),
    "zh-CN": ("源邮箱中已删除（新邮箱中保留）", "随源邮箱移动", "随源邮箱移入", "标记已更新", "封无需处理"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_first_pass_says_nothing_of_later_ones(pages: dict[str, Page], language: str) -> None:
    for name in (f"wave.{language}.html", *(f"members/{n}.{language}.html" for n in (4, 5))):
        assert not [words for words in FOLLOWED[language][:4] if words in pages[name].text], name
        assert "followed" not in pages[name].values("section", "aria-labelledby")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_happened_at_the_source_is_shown_where_something_did(tmp_path: Path, language: Language) -> None:
    render_report(sample_later_summary(), tmp_path)
    wave, member, other = (
        read_page((tmp_path / f"{name}.{language}.html").read_text(encoding="utf-8"))
        for name in ("wave", "members/4", "members/1")
    )
    gone, moved, moved_here, flags, nothing_to_do = FOLLOWED[language]
    assert not wave.faults + member.faults
    assert all(words in wave.text for words in (gone, moved, flags, nothing_to_do, "1,207", "1,204", "1,041"))
    assert all(words in member.text for words in (gone, moved_here, flags, nothing_to_do, "1,041", "“Sent”"))
    assert "followed" not in other.values("section", "aria-labelledby")
    assert cause("moved_at_source").advice.in_language(language) in wave.text


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        (
            "en",
            [
                "the folder above it has another name",
                "1,200 messages of it are in",
                "what is in it is no mail",
                "2,310",
            ],
        ),
        ("zh-CN", ["上级文件夹在新邮箱中另有名称", "其中 1,200 封也在其他文件夹中", "其中不是邮件", "2,310"]),
    ],
)
def test_a_members_page_says_where_folders_went_and_which_stayed(
    pages: dict[str, Page], language: str, texts: list[str]
) -> None:
    page = shown(pages[f"members/5.{language}.html"])
    assert all(text in page for text in texts), page


def test_every_link_leads_to_a_file_of_the_report(directory: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert page.links, name
        for link in page.links:
            assert (directory / name).parent.joinpath(link).resolve().is_file(), (name, link)


@pytest.mark.parametrize("nasty", [SCRIPT, ESCAPE, OVERRIDE])
def test_hostile_text_is_shown_and_never_obeyed(directory: Path, nasty: str) -> None:
    for path in directory.rglob("*.html"):
        assert nasty not in path.read_text(encoding="utf-8"), path.name


def test_nothing_invisible_reaches_a_page_or_a_table(directory: Path) -> None:
    for path in [*directory.rglob("*.html"), *directory.glob("*.json"), *directory.glob("[aw]*.csv")]:
        text = path.read_text(encoding="utf-8-sig").replace("\n", "").replace("\r", "")
        assert INVISIBLE.findall(text) == [], path.name


def test_what_was_hidden_can_be_read(pages: dict[str, Page]) -> None:
    text = shown(pages["wave.en.html"])
    assert "invoice\\u202efdp.exe" in text
    assert "\\x1b[31mred" in text
    assert SCRIPT in text


def test_both_languages_say_the_same_with_the_same_numbers(pages: dict[str, Page]) -> None:
    for name in [name for name in pages if name.endswith(".en.html")]:
        english, chinese = pages[name], pages[name.replace(".en.", ".zh-CN.")]
        assert english.tags == chinese.tags, name
        grouped = [set(re.findall(r"\d+(?:,\d{3})+", page.text)) for page in (english, chinese)]
        assert grouped[0] == grouped[1], name


def test_the_head_gives_the_result_in_one_sentence(pages: dict[str, Page]) -> None:
    assert (
        "6 of 21 mailboxes moved; 8 need attention; 6 waiting or under way; 1 removed from the wave; "
        "2 roster rows were left out; 9 messages were not moved."
    ) in shown(pages["wave.en.html"])
    assert "21 个邮箱中 6 个已搬完" in shown(pages["wave.zh-CN.html"])


def test_one_is_not_written_as_many(summary: WaveSummary, tmp_path: Path) -> None:
    alone = replace(summary, members=(sample_member(1), sample_member(9)), invalid_rows=summary.invalid_rows[:1])
    text = shown(read_page(render_report(alone, tmp_path).html_en.read_text(encoding="utf-8")))
    assert "1 of 2 mailboxes moved; 1 needs attention; 1 roster row was left out." in text


def test_all_is_well_when_all_moved(summary: WaveSummary, tmp_path: Path) -> None:
    well = replace(summary, members=(sample_member(1), sample_member(2)), invalid_rows=(), previous=None)
    page = read_page(render_report(well, tmp_path).html_en.read_text(encoding="utf-8"))
    text = shown(page)
    assert "All 2 mailboxes moved." in text
    assert "The numbers add up." in text
    assert "No member needs attention." in text
    assert "This is the first report of this wave." in text
    assert "result open" not in page.values("p", "class")


def test_numbers_that_do_not_add_up_are_said(summary: WaveSummary, tmp_path: Path) -> None:
    member = sample_member(4)
    folder = member.folders[0]
    short = replace(folder, counts=replace(folder.counts, copied=folder.counts.copied - 7))
    wave = replace(summary, members=(replace(member, folders=(short, *member.folders[1:])),))
    text = shown(read_page(render_report(wave, tmp_path).html_en.read_text(encoding="utf-8")))
    assert "7 messages of moved mailboxes are unaccounted for." in text
    assert "The numbers add up" not in text


@pytest.mark.parametrize("name", sorted(causes()))
def test_every_cause_comes_with_its_advice_in_both_languages(summary: WaveSummary, name: str) -> None:
    found = causes()[name]
    member = replace(sample_member(9), cause=found)
    wave = replace(summary, members=(member,))
    for language, text in (("en", found.advice.en), ("zh-CN", found.advice.zh)):
        wording = reports.render.Wording(language, ZoneInfo("UTC"))  # type: ignore[arg-type]
        for html in (
            reports.render._wave_html(wave, wording, "0" * 64),
            reports.render._member_html(wave, member, wording),
        ):
            assert text in read_page(html).text


def test_times_are_in_the_zone_that_the_page_names(pages: dict[str, Page], summary: WaveSummary) -> None:
    assert "2026-03-14 17:26 Asia/Shanghai" in shown(pages["wave.en.html"])
    assert "Times are in Asia/Shanghai" in shown(pages["members/1.en.html"])


def test_a_date_at_the_edge_of_the_calendar_does_not_stop_the_report(summary: WaveSummary, tmp_path: Path) -> None:
    member = sample_member(1)
    folder = replace(member.folders[0], oldest=MADE_AT.replace(year=1, month=1, day=1, hour=0))
    wave = replace(summary, members=(replace(member, folders=(folder,)),))
    render_report(wave, tmp_path, zone=ZoneInfo("America/New_York"))
    assert "0001-01-01" in (tmp_path / "members" / "1.en.html").read_text(encoding="utf-8")


def test_the_foot_says_what_became_of_source_and_credentials(summary: WaveSummary, tmp_path: Path) -> None:
    bare = replace(summary, members=())
    text = shown(read_page(render_report(bare, tmp_path).html_en.read_text(encoding="utf-8")))
    assert "0 delete commands were sent to the source" in text
    assert "Run banjia vault purge" in text
    purged = replace(bare, credentials_purged_at=MADE_AT)
    text = shown(read_page(render_report(purged, tmp_path).html_en.read_text(encoding="utf-8")))
    assert "Credentials: purged at 2026-03-14 09:26 UTC." in text


def test_the_checksum_is_that_of_the_json_file(directory: Path, pages: dict[str, Page]) -> None:
    checksum = hashlib.sha256((directory / "wave.json").read_bytes()).hexdigest()
    assert all(checksum in pages[name].text for name in ("wave.html", "wave.en.html", "wave.zh-CN.html"))


def test_the_bar_is_full_and_a_single_member_shows_in_it() -> None:
    segments = bar(sample_summary(800))
    assert sum(segment.width for segment in segments) == pytest.approx(1000, abs=0.1)
    assert sum(segment.count for segment in segments) == 800
    assert min(segment.width for segment in segments) > 3
    assert bar(replace(sample_summary(1), members=())) == ()


def test_numbers_of_the_page_are_those_of_the_json(directory: Path, pages: dict[str, Page]) -> None:
    document = json.loads((directory / "wave.json").read_text(encoding="utf-8"))
    text = shown(pages["wave.en.html"])
    for name in ("source", "copied", "already_there", "issues"):
        assert f"{document['counts'][name]:,}" in text
    for member in document["members"]:
        own = shown(pages[f"members/{member['id']}.en.html"])
        assert all(f"{count:,}" in own for count in member["messages"].values())
        if member["grade"] and member["short_state"] != "needs_attention":
            assert all(f"{count:,}" in text for count in member["messages"].values())


def test_a_second_report_replaces_the_first_and_drops_what_is_gone(summary: WaveSummary, tmp_path: Path) -> None:
    render_report(summary, tmp_path)
    (tmp_path / "members" / "notes.txt").write_text("an admin's own")
    well = replace(summary, members=(sample_member(1),), invalid_rows=(), state=WaveState.COMPLETED)
    written = render_report(well, tmp_path)
    assert written.failures is None
    assert not (tmp_path / "failures.csv").exists()
    assert "failures.csv" not in read_page(written.html.read_text(encoding="utf-8")).links
    assert {path.name for path in (tmp_path / "members").iterdir()} == {"1.en.html", "1.zh-CN.html", "notes.txt"}


def test_a_failed_write_leaves_the_old_file_whole(
    summary: WaveSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(summary, members=(sample_member(1),))
    written = render_report(few, tmp_path)
    before = written.html_en.read_bytes()

    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    def full_disk(path: Path) -> FullDisk:
        return FullDisk(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w")

    monkeypatch.setattr(private_files, "create_private", full_disk)
    with pytest.raises(OSError, match="No space"):
        render_report(replace(few, report_id="another"), tmp_path)
    assert written.html_en.read_bytes() == before
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_thousand_issues_are_shown_and_the_rest_counted(summary: WaveSummary) -> None:
    member = sample_member(7)
    member = replace(member, issues=member.issues * 350)
    html = reports.render._member_html(summary, member, reports.render.Wording("en", ZoneInfo("UTC")))
    assert html.count(">INBOX<") == 1000 + 2
    assert "50 more messages are not shown here; see wave.json." in read_page(html).text


def test_an_endless_answer_is_cut(summary: WaveSummary) -> None:
    wave = replace(summary, members=(replace(sample_member(9), server_text="A" * 1_000_000),))
    assert len(reports.render._wave_html(wave, reports.render.Wording("en", ZoneInfo("UTC")), "")) < 50_000


def test_eight_hundred_members_are_rendered(tmp_path: Path) -> None:
    written = render_report(sample_summary(800), tmp_path)
    page = read_page(written.html_en.read_text(encoding="utf-8"))
    assert page.faults == []
    assert len({link for link in page.links if link.startswith("members/")}) == 800


def test_a_member_that_waits_shows_until_when_and_for_what(tmp_path: Path) -> None:
    waits = replace(
        sample_member(1),
        state=MemberState.THROTTLED,
        cause=cause("bandwidth_exceeded"),
        resume_at=MADE_AT + timedelta(hours=20),
    )
    written = render_report(replace(sample_summary(), members=(waits,)), tmp_path, zone=SHANGHAI)
    at = "2026-03-15 13:26 Asia/Shanghai"
    for language, told in zip(LANGUAGES, (f"{at} 自动继续", f"Goes on by itself at {at}"), strict=True):
        for page in (f"wave.{language}.html", f"members/1.{language}.html"):
            text = shown(read_page((tmp_path / page).read_text(encoding="utf-8")))
            assert told in text, page
            assert cause("bandwidth_exceeded").title.in_language(language) in text
    [member] = json.loads(written.json.read_text(encoding="utf-8"))["members"]
    assert member["resume_at"] == "2026-03-15T05:26:53+00:00"


# -- messages that arrived altered


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_members_page_names_what_was_altered_and_says_what_that_means(
    pages: dict[str, Page], language: Language
) -> None:
    text = shown(pages[f"members/7.{language}.html"])
    told = alteration("header_8bit")
    for sentence in (told.name, told.seen, told.helps):
        assert sentence.in_language(language) in text
    assert "invoice\\u202efdp.exe" in text
    assert "王芳 <wang@old.example>" in text
    assert ("(no subject)" if language == "en" else "（无主题）") in text
    assert "of_a_later_version" in text
    assert ("UID 1, in the new mailbox UID 100001" if language == "en" else "UID 1，新邮箱 UID 100001") in text
    assert ("NUL bytes removed" if language == "en" else "去掉了 NUL 字节") in text


def test_messages_that_were_not_moved_are_named_and_each_cure_is_told_once(pages: dict[str, Page]) -> None:
    text = shown(pages["members/7.en.html"])
    assert f"预算 {SCRIPT}" in text
    assert text.count(cause("message_too_large").advice.en) == 2, "at the head and above the list, not for each"


class OneFolder:
    """A hundred thousand in one folder, of which a page asks for a few, and few folders fit on a page."""

    def every(self) -> Iterator[AlteredMessage]:
        yield from self.of_member(1, 3)[0].messages

    def of_member(self, member_id: int, first: int) -> Sequence[AlteredFolder]:
        message = next(SampleAltered().every())
        return [AlteredFolder(f"folder {n}", 100_000, [message] * first) for n in range(12)]


def test_a_page_stays_small_whatever_was_altered(summary: WaveSummary, tmp_path: Path) -> None:
    render_report(replace(summary, members=(sample_member(1),)), tmp_path, altered=OneFolder())
    page = (tmp_path / "members" / "1.en.html").read_bytes()
    text = shown(read_page(page.decode()))
    assert len(page) < 1_500_000
    assert "“folder 9” has 100,000, of which 100 are shown; altered.csv and altered.json have all." in text
    assert "Those of 2 more folders are not shown" in text
    assert len((tmp_path / "altered.csv").read_bytes().splitlines()) == 4


def test_files_of_what_was_altered_are_there_when_something_was(summary: WaveSummary, tmp_path: Path) -> None:
    member = sample_member(1)
    written = render_report(replace(summary, members=(member,)), tmp_path, altered=SampleAltered())
    assert written.altered == tmp_path / "altered.csv"
    assert {"altered.csv", "altered.json"} <= set(read_page(written.html_en.read_text(encoding="utf-8")).links)
    well = replace(member, folders=tuple(replace(folder, altered={}) for folder in member.folders))
    written = render_report(replace(summary, members=(well,)), tmp_path, altered=SampleAltered())
    assert written.altered is None
    assert not list(tmp_path.glob("altered.*"))
    assert "altered.csv" not in read_page(written.html_en.read_text(encoding="utf-8")).links
