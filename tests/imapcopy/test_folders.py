"""Which folder goes where."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.folders import Folder, map_folders, role_names
from imapcopy.grammar import encode_mailbox
from models.rules import KINDS


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
    assert set(role_names().values()) == set(KINDS)
    table = tomllib.loads((files("imapcopy") / "folder_names.toml").read_text(encoding="utf-8"))
    names = [name.casefold() for each in table.values() for name in each]
    assert len(set(names)) == len(names) > 250
