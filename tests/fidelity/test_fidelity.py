"""Mail with every hazard, moved through all pairs of three real servers: what comes of it is what is documented."""

from pathlib import Path

import pytest

from imapcopy.copy_options import CopyOptions
from models.ledger_rows import MessageAlteration
from tests.fidelity.__main__ import KINDS, Cells, from_markdown, moved_cells, run, running, stored_cells
from tests.fidelity.corpus import corpus
from tests.fidelity.hazards import NOON, hazards
from tests.fidelity.moves import OF_THE_TEXT, Kept, Loading, Move, difference, differences, load, move
from tests.servers.courier import Courier
from tests.servers.cyrus import Cyrus

DOCUMENTED = (Path(__file__).parents[2] / "docs/fidelity.md").read_text()
PAIRS = [f"{source.__name__}-{target.__name__}" for source in KINDS for target in KINDS]


@pytest.fixture(scope="module")
def moved() -> tuple[list[Loading], list[Move]]:
    return run(hazards())


def _with_the_rest(documented: Cells, happened: Cells) -> Cells:
    """A message that has no row in the documentation must be as it was everywhere."""
    return {name: documented.get(name) or {c: v and "=" for c, v in row.items()} for name, row in happened.items()}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_a_pair_of_servers_makes_of_mail_is_known_and_told(
    pair: str, moved: tuple[list[Loading], list[Move]]
) -> None:
    loadings, moves = moved
    [result] = [each for each in moves if each.pair == pair]
    assert (result.unexplained, result.silent, result.false_alarms, result.failure) == (0, 0, 0, "")
    assert result.misnamed == [], "each message that differs is told by itself"
    assert result.is_right
    assert result.identical > 40
    happened = moved_cells(loadings, moves)
    expected = _with_the_rest(from_markdown(DOCUMENTED, PAIRS[0]), happened)
    assert {n: row[pair] for n, row in happened.items()} == {n: row[pair] for n, row in expected.items()}


def test_a_header_that_cyrus_destroyed_can_be_read_in_the_ledger(moved: tuple[list[Loading], list[Move]]) -> None:
    [result] = [each for each in moved[1] if each.pair == "Dovecot-Cyrus"]
    read = {name: row.subject for name, row in result.rows.items() if name.startswith("header in")}
    assert read.pop("header in GB18030") == "关于季度报销流程的通知"
    assert read.pop("header in UTF-8") == "关于季度报销流程的通知 🎉"
    assert read.pop("header in Latin-1") == "Müller grüßt"
    # Nothing in these says which charset it is.
    assert set(read) == {"header in Big5", "header in Shift-JIS"}
    assert all(read.values())
    there = {row.target_uid for row in result.rows.values()}
    assert len(there) == len(result.rows), "each by its own UID in the new mailbox"


def test_what_cyrus_refuses_arrives_repaired_where_that_is_allowed_and_the_report_says_so(
    moved: tuple[list[Loading], list[Move]], tmp_path: Path
) -> None:
    [refused] = [each.issues.total() for each in moved[1] if each.pair == "Courier-Cyrus"]
    assert refused
    with running([Courier, Cyrus]) as (source, target):
        loading = load(source, hazards())
        result = move(source, loading, target, "repaired", tmp_path, CopyOptions(repair="refused"))
    assert (result.issues.total(), result.found["missing"], result.extra) == (0, 0, 0)
    assert not result.failure
    for told in (result.told, result.told_deep):
        assert told["repaired"] == refused
        # A message that was repaired is different and told once; every other difference has its own name.
        assert sum(told[name] for name in OF_THE_TEXT) + refused == sum(result.found[n] for n in OF_THE_TEXT)


def test_what_servers_make_of_mail_that_is_stored_is_documented(moved: tuple[list[Loading], list[Move]]) -> None:
    happened = stored_cells(moved[0])
    assert happened == _with_the_rest(from_markdown(DOCUMENTED, KINDS[0].__name__), happened)


def test_the_documentation_names_no_hazard_that_is_not_tried() -> None:
    names = {hazard.name for hazard in hazards()}
    assert len(names) == len(hazards())
    for first in (PAIRS[0], KINDS[0].__name__):
        documented = from_markdown(DOCUMENTED, first)
        assert documented
        assert documented.keys() <= names


MAIL = b"Subject: s\r\n\r\none\r\n"


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (MAIL, ""),
        (MAIL + b"\r\n", "final_line_end"),
        (MAIL.replace(b"\r\n", b"\n"), "line_ends"),
        (MAIL.replace(b"one", b"two"), "content"),
        (MAIL[:-4], "content"),
        (MAIL + MAIL, "content"),
        (MAIL.replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n"), "content"),
    ],
)
def test_the_comparison_of_its_own_names_differences(there: bytes, name: str) -> None:
    assert difference(MAIL, there) == name


def test_the_comparison_knows_nul_and_eight_bit_headers_but_no_such_change_elsewhere() -> None:
    here = b"Subject: \xb9\xd8\r\n\r\n\xb9\0\r\n"
    assert difference(here, here.replace(b"\0", b"\x80")) == "nul"
    assert difference(here, here.replace(b"\xb9\xd8", b"XX")) == "header_8bit"
    assert difference(here, here.replace(b"\xb9\0", b"X\0")) == "content"


def test_the_comparison_sees_dates_and_flags() -> None:
    here = Kept(MAIL, NOON, frozenset({"\\seen", "Work"}))
    assert set(differences(here, here)) == set()
    assert set(differences(here, here._replace(arrived=NOON.replace(year=2025)))) == {"date"}
    assert set(differences(here, here._replace(flags=frozenset({"\\seen"})))) == {"keyword_dropped"}
    assert set(differences(here, here._replace(flags=frozenset({"\\draft", "Work"})))) == {"flags"}


def test_a_move_with_a_difference_that_nobody_told_is_not_right() -> None:
    result = Move("a", "b", 1, {"x": frozenset({"nul"})})
    assert result.silent == 1
    result.told["nul"] = result.told_deep["nul"] = 1
    assert (result.silent, result.misnamed, result.is_right) == (0, ["x"], False), "counted, but not named"
    result.rows["x"] = MessageAlteration(folder_copy_id=1, source_uid=1, target_uid=1, alterations="nul")
    assert (result.misnamed, result.is_right) == ([], True)
    result.extra = 1
    assert (result.silent, result.is_right) == (1, False)
    assert not Move("a", "b", 1, {"x": frozenset({"issue: unclassified"})}).is_right
    assert not Move("a", "b", 1, {"x": frozenset({"missing"})}).is_right


def test_a_corpus_is_read_from_single_files_and_mboxes(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(b"Subject: lf\n\nbody\n")
    (tmp_path / "b.mbox").write_bytes(
        b"From x Mon May  6 12:30:15 2024\nDate: Mon, 6 May 2024 12:30:15 +0800\n\none\n\nFrom y\nSubject: 2\n\ntwo\n"
    )
    (tmp_path / "c.txt").write_bytes(b"no mail")
    found = corpus(tmp_path)
    assert [(each.name, each.raw) for each in found] == [
        ("a.eml", b"Subject: lf\r\n\r\nbody\r\n"),
        ("b.mbox#0", b"Date: Mon, 6 May 2024 12:30:15 +0800\r\n\r\none\r\n"),
        ("b.mbox#1", b"Subject: 2\r\n\r\ntwo\r\n"),
    ]
    assert found[1].arrived == NOON
