"""Which folder goes where."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.folders import Folder, Place, map_folders, role_names
from imapcopy.grammar import encode_mailbox
from models.providers import provider_at
from models.rules import KINDS, OWNERS, FolderRules


def folder(name: str, *attributes: str, separator: str = "/") -> Folder:
    return Folder(encode_mailbox(name), name, separator, frozenset(attributes))


def mapped(source: Sequence[Folder], target: Sequence[Folder] = (), **more: object) -> dict[str, str]:
    return {pair.source.name: pair.target_name for pair in map_folders(source, target, **more).pairs}  # type: ignore[arg-type]


INBOX = folder("INBOX")


def test_inbox_comes_first_and_is_never_created() -> None:
    pairs = map_folders([folder("A"), INBOX], []).pairs
    assert [(pair.target_name, pair.create) for pair in pairs] == [("INBOX", False), ("A", True)]


def test_folders_that_are_only_names_are_left_out() -> None:
    source = [INBOX, folder("A", "\\noselect"), folder("A/B"), folder("Gone", "\\nonexistent")]
    assert list(mapped(source)) == ["INBOX", "A/B"]


def test_a_name_of_the_target_that_is_only_a_name_is_created() -> None:
    [pair] = map_folders([folder("A")], [folder("A", "\\noselect")]).pairs
    assert (pair.target_name, pair.create) == ("A", True)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("已发送", "\\sent"),
        ("Sent Items", "\\sent"),
        ("草稿箱", "\\drafts"),
        ("Deleted Messages", "\\trash"),
        ("Spam", "\\junk"),
        ("垃圾邮件", "\\junk"),
        ("归档", "\\archive"),
        ("INBOX/Sent", "\\sent"),
    ],
)
def test_a_well_known_name_goes_to_the_role_that_the_target_marks(name: str, role: str) -> None:
    assert mapped([folder(name)], [folder("there", role)]) == {name: "there"}


def test_a_mark_counts_more_than_a_name() -> None:
    source = [folder("Sent"), folder("Outbox 2019", "\\sent")]
    target = [folder("Sent"), folder("Gesendet", "\\sent")]
    assert mapped(source, target) == {"Sent": "Gesendet", "Outbox 2019": "Gesendet"}


def test_a_well_known_name_deep_in_the_tree_is_an_ordinary_folder() -> None:
    assert mapped([folder("Clients/Sent")], [folder("Sent", "\\sent")]) == {"Clients/Sent": "Clients/Sent"}


def test_special_folders_of_one_role_go_together_and_no_others_share_a_target() -> None:
    source = [folder("Sent", "\\sent"), folder("已发送"), folder("Sent Items"), folder("Work"), folder("work")]
    found = mapped(source, [folder("Gesendet", "\\sent")])
    assert found == {
        "Sent": "Gesendet",
        "已发送": "Gesendet",
        "Sent Items": "Gesendet",
        "Work": "Work",
        "work": "work (2)",
    }


def test_the_target_is_the_same_after_the_first_pass_has_made_its_folders() -> None:
    source = [INBOX, folder("Project"), folder("project"), folder("PROJECT"), folder("a.b"), folder("Sent")]
    first = map_folders(source, [INBOX], target_separator=".").pairs
    made = [folder(pair.target_name, separator=".") for pair in first]
    again = map_folders(source, made, target_separator=".").pairs
    assert [pair.target_name for pair in again] == [pair.target_name for pair in first]
    assert not any(pair.create for pair in again)


NAMES = st.lists(st.text("aAb./ 中", min_size=1, max_size=6), unique=True, max_size=12)


@given(NAMES, NAMES, st.sampled_from(["", "/", "."]), st.sampled_from(["", "INBOX."]))
def test_whatever_the_names_are_every_folder_has_a_target_of_its_own_that_stays(
    names: list[str], existing: list[str], separator: str, prefix: str
) -> None:
    source = [INBOX, *(folder(name) for name in names)]
    first = map_folders(
        source, [folder(name) for name in existing], target_separator=separator, target_prefix=prefix
    ).pairs
    assert len(first) == len(source)
    assert len({pair.target_name.casefold() for pair in first}) == len(first)
    made = [folder(name) for name in {*existing, *(pair.target_name for pair in first)}]
    again = map_folders(source, made, target_separator=separator, target_prefix=prefix).pairs
    assert [pair.target_name for pair in again] == [pair.target_name for pair in first]


def test_prefix_and_separator_are_exchanged() -> None:
    source = [folder("INBOX", separator="."), folder("INBOX.A.B", separator=".")]
    assert mapped(source, source_prefix="INBOX.") == {"INBOX": "INBOX", "INBOX.A.B": "A/B"}
    there = mapped([folder("A/B.c")], target_prefix="INBOX.", target_separator=".")
    assert there == {"A/B.c": "INBOX.A.B_c"}


def test_a_separator_within_a_name_does_not_make_two_folders_of_one() -> None:
    source = [folder("a.b"), folder("a_b")]
    found = mapped(source, target_separator=".")
    assert found == {"a.b": "a_b", "a_b": "a_b (2)"}


def test_a_target_without_a_hierarchy_gets_flat_names() -> None:
    assert mapped([folder("A/B")], target_separator="") == {"A/B": "A_B"}


@pytest.mark.parametrize("root", ["Work", "/Work/", "\\Work"])
def test_a_root_copies_only_what_lies_under_it(root: str) -> None:
    source = [INBOX, folder("Work"), folder("Work/A"), folder("Workshop"), folder("Other")]
    assert mapped(source, root=root) == {"Work": "INBOX", "Work/A": "A"}


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("Archive", {"Archive", "Archive/2019"}),
        ("Archive/*", {"Archive/2019"}),
        ("*20??", {"Archive/2019"}),
        ("\\Trash", {"Bin"}),
        ("\\trash", {"Bin"}),
        ("\\Junk", {"Spam"}),
        ("archive", set()),
    ],
)
def test_excluded_are_names_patterns_and_roles(pattern: str, left_out: set[str]) -> None:
    source = [INBOX, folder("Archive"), folder("Archive/2019"), folder("Bin", "\\trash"), folder("Spam")]
    assert {one.name for one in source} - set(mapped(source, exclude=[pattern])) == left_out


def test_the_targets_spelling_is_kept_where_case_is_all_that_differs() -> None:
    assert mapped([folder("archive 1")], [folder("Archive 1")]) == {"archive 1": "Archive 1"}
    both = [folder("Plain"), folder("plain")]
    assert mapped([folder("Plain")], both) == {"Plain": "Plain"}
    assert mapped([folder("plain")], both) == {"plain": "plain"}


def test_no_name_has_two_kinds() -> None:
    assert set(role_names().values()) == set(KINDS) - set(OWNERS)
    table = tomllib.loads((files("imapcopy") / "folder_names.toml").read_text(encoding="utf-8"))
    names = [name.casefold() for each in table.values() for name in each]
    assert len(set(names)) == len(names) > 250


# Paths, roots, containers


@pytest.mark.parametrize("there", ["/", ".", "|", "\\", "^"])
@pytest.mark.parametrize("here", ["/", ".", "|", "\\", "^", ""])
@pytest.mark.parametrize("prefix", ["", "INBOX"])
def test_any_two_separators_and_prefixes_meet(here: str, there: str, prefix: str) -> None:
    """A folder within a folder stays one, and a folder with the other side's separator in its name stays one, too."""
    odd = f"a{there}b" if there != here else "ab"
    deep = here.join(["客户", "2024"]) if here else "客户2024"
    start = prefix + here if prefix and here else ""
    source = [folder(start + name, separator=here) for name in (odd, deep)]
    target_prefix = prefix + there if prefix else ""
    found = mapped([INBOX, *source], source_prefix=start, target_prefix=target_prefix, target_separator=there)
    assert found["INBOX"] == "INBOX"
    assert found[start + odd] == target_prefix + odd.replace(there, "_")
    assert found[start + deep] == target_prefix + (f"客户{there}2024" if here else "客户2024")


def test_children_of_inbox_lie_where_the_target_has_its_folders() -> None:
    source = [INBOX, folder("INBOX/A"), folder("INBOX/A/B"), folder("Inbox/C"), folder("A")]
    assert mapped(source) == {
        "INBOX": "INBOX",
        "INBOX/A": "INBOX/A",
        "INBOX/A/B": "INBOX/A/B",
        "Inbox/C": "INBOX/C",
        "A": "A",
    }
    found = mapped(source, target_prefix="INBOX.", target_separator=".")
    assert found["A"] == "INBOX.A"
    assert found["INBOX/A"] == "INBOX.A (2)"
    assert found["INBOX/A/B"] == "INBOX.A (2).B"


@pytest.mark.parametrize("root", ["users/alberta", "/users/alberta", "users.alberta", "\\users\\alberta"])
def test_a_root_may_be_written_with_the_servers_separator(root: str) -> None:
    source = [folder(name, separator=".") for name in ("users", "users.alberta", "users.alberta.Sent", "users.bob")]
    assert mapped(source, root=root) == {"users.alberta": "INBOX", "users.alberta.Sent": "Sent"}


def test_folders_below_a_special_one_go_below_its_new_name() -> None:
    source = [folder("已发送", "\\sent"), folder("已发送/2019"), folder("Sent Items/2019")]
    assert mapped(source, [folder("Gesendet", "\\sent")]) == {
        "已发送": "Gesendet",
        "已发送/2019": "Gesendet/2019",
        "Sent Items/2019": "Sent Items/2019",
    }


def test_a_folder_that_keeps_its_name_below_a_special_one_needs_no_reason() -> None:
    plan = map_folders([folder("Sent"), folder("Sent/2019")], [])
    assert [(pair.target_name, pair.why) for pair in plan.pairs] == [("Sent", "known_name"), ("Sent/2019", "")]


def test_a_container_of_the_service_goes_away() -> None:
    source = [
        folder("其他文件夹", "\\noselect"),
        folder("其他文件夹/客户"),
        folder("其他文件夹/客户/北京"),
        folder("客户"),
    ]
    plan = map_folders(
        [*source, folder("其他文件夹/Sent")], [], traits=provider_at("imap.exmail.qq.com", "", ()).traits
    )
    assert {(pair.source.name, pair.target_name, pair.why) for pair in plan.pairs} == {
        ("其他文件夹/客户", "客户", "container"),
        ("其他文件夹/客户/北京", "客户/北京", "container"),
        ("客户", "客户 (2)", "collision"),
        ("其他文件夹/Sent", "Sent", "container"),
    }
    assert mapped(source)["其他文件夹/客户"] == "其他文件夹/客户"


def test_a_name_with_a_number_that_is_refused_is_not_tried_with_all_numbers() -> None:
    plan = map_folders([folder("a.b"), folder("A.B")], [folder("a.b")])
    assert [pair.target_name for pair in plan.pairs] == ["a.b", "A.B (2)"]
    tried = []
    refused: set[str] = set()
    while (pair := plan.pairs[1]).target_name not in refused:
        tried.append(pair.target_name)
        refused.add(pair.target_name)
        plan = plan.renamed(refused)
    assert tried[:2] == ["A.B (2)", "A_B"]
    assert len(tried) < 5


# What stays behind


def left_out(source: Sequence[Folder], **more: object) -> dict[str, str]:
    return {each.source.name: each.why for each in map_folders(source, [], **more).left_out}  # type: ignore[arg-type]


def test_what_is_no_mail_is_left_out_where_the_service_has_such_folders() -> None:
    source = [folder(name) for name in ("Calendar", "Calendar/Birthdays", "日历", "Work/Calendar", "Notes", "Mail")]
    exchange = provider_at("10.0.0.7", "The Microsoft Exchange IMAP4 service is ready. [abc]", ()).traits
    assert left_out(source, traits=exchange) == dict.fromkeys(
        ["Calendar", "Calendar/Birthdays", "日历", "Notes"], "not_mail"
    )
    assert not left_out(source, traits=provider_at("imap.example", "ready", ()).traits)


def test_views_are_left_out_everywhere_and_with_labels_the_widest_gives_what_is_nowhere_else() -> None:
    source = [INBOX, folder("Work"), folder("All", "\\all"), folder("Stars", "\\flagged"), folder("Hot", "\\important")]
    anybody = provider_at("imap.example", "ready", ()).traits
    assert left_out(source, traits=anybody) == {"All": "shows_other_folders", "Stars": "shows_other_folders"}
    gmail = map_folders(source, [], traits=provider_at("imap.example", "ready", {"X-GM-EXT-1"}).traits)
    assert {each.source.name for each in gmail.left_out} == {"Stars", "Hot"}
    every = gmail.pairs[-1]
    assert (every.source.name, every.target_name, every.why) == ("All", "Archive", "view")
    assert every.source.elsewhere == {b"INBOX", b"\\Inbox", b"Work"}
    chosen = map_folders(source, [], traits=anybody, rules=FolderRules(include=("\\All",)))
    assert {pair.source.name: (pair.target_name, pair.source.elsewhere) for pair in chosen.pairs}["All"] == (
        "All",
        frozenset(),
    )


def test_a_label_of_a_folder_that_is_left_out_still_keeps_its_mail_out_of_the_view() -> None:
    source = [INBOX, folder("Private"), folder("All", "\\all")]
    plan = map_folders(source, [], traits=provider_at("imap.gmail.com", "", ()).traits, exclude=["Private"])
    assert b"Private" in plan.pairs[-1].source.elsewhere


def test_rules_choose_among_folders() -> None:
    source = [INBOX, folder("Work"), folder("Work/Old"), folder("Play"), folder("病毒文件夹"), folder("Spam")]
    assert left_out(source) == {"病毒文件夹": "virus"}
    rules = FolderRules(only=("INBOX", "Work", "\\Virus"), include=("\\Virus",), exclude=("*/Old",))
    assert left_out(source, rules=rules) == {"Work/Old": "excluded", "Play": "not_wanted", "Spam": "not_wanted"}


# Places that stay


def test_a_folder_stays_where_it_went_before_as_long_as_that_is_there() -> None:
    source = [folder("Trash", "\\trash"), folder("trash"), folder("A")]
    known = {"Trash": Place("Mülleimer", "special_use"), "A": Place("B", "characters")}
    there = [folder("Mülleimer"), folder("Deleted Items", "\\trash"), folder("A")]
    plan = map_folders(source, there, known=known, rules=FolderRules(rename={"A": "C"}))
    assert {pair.source.name: (pair.target_name, pair.why) for pair in plan.pairs} == {
        "Trash": ("Mülleimer", "special_use"),
        "trash": ("Deleted Items", "known_name"),
        "A": ("C", "rule"),
    }


def test_a_folder_that_the_target_spells_in_its_own_way_is_not_taken_for_one_of_that_name() -> None:
    """What is listed raw would not be found under the name that we would say."""
    raw = Folder("中文".encode(), "中文", "/", frozenset())
    [pair] = map_folders([folder("中文")], [raw]).pairs
    assert pair.create


def test_special_folders_of_one_role_stay_together_under_another_name() -> None:
    plan = map_folders([folder("Sent", "\\sent"), folder("已发送")], []).renamed({"Sent"})
    assert len({pair.target_name for pair in plan.pairs}) == 1
