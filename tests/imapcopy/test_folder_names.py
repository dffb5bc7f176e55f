"""Any folder name a server may list, through decoding, encoding and naming: no exception, no two in one, no way lost.

`pytest tests/imapcopy/test_folder_names.py --hypothesis-profile=thorough` draws more; `FOLDER_NAME_EXAMPLES=100000`
says how many.
"""

import os
import random
import re
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imapcopy import grammar, responses
from imapcopy.folders import Folder, FolderPlan, map_folders
from imapcopy.grammar import decode_mailbox, encode_mailbox
from imapcopy.wire import Response
from models.providers import Traits, providers
from models.rules import ROLES

EXAMPLES = settings(
    max_examples=int(os.environ.get("FOLDER_NAME_EXAMPLES", "0")) or settings().max_examples,
    suppress_health_check=list(HealthCheck),
)
SEPARATORS = ["/", ".", "|", "\\", "^", ""]
SPACES = ["", "INBOX", "Mail"]
"""Personal namespaces: the prefix is one of these with the separator behind it (RFC 2342)."""

characters = st.one_of(
    st.sampled_from("aAbB/.|\\^&%*\"'~- ,+=@#_()[]{}<>\t\r\n\0"),
    st.sampled_from("中文简體にほ한국éÉñßЖжΩ🎉\u200d\u0301\u202e\ufeff\u00ad　ﬀ"),
    st.characters(codec="utf-8"),
)
plain_names = st.text(characters, min_size=1, max_size=12)
names = st.one_of(
    plain_names,
    st.builds("/".join, st.lists(plain_names, min_size=2, max_size=5)),
    st.sampled_from(
        ["INBOX", "inbox/A", "Sent", "已发送", "Trash", "trash", "垃圾邮件/旧", "其他文件夹/客户", "Calendar"]
    ),
    st.builds(lambda text, times: text * times, plain_names, st.integers(20, 200)),
)
raw_names = st.one_of(
    st.builds(encode_mailbox, names),
    st.builds(lambda name: name.encode(), names),
    st.builds(lambda name: name.encode("gb18030"), names),
    st.binary(min_size=1, max_size=24),
    st.builds(lambda text: text.encode(), st.text("&-,ABCabc+/ 日", min_size=1, max_size=12)),
)
attributes = st.frozensets(
    st.sampled_from(["\\sent", "\\trash", "\\junk", "\\all", "\\flagged", "\\noselect", "\\subscribed"]), max_size=2
)


def folders(raws: Sequence[bytes], marks: Sequence[frozenset[str]], separator: str) -> list[Folder]:
    made = [Folder(raw, decode_mailbox(raw), separator, mark) for raw, mark in zip(raws, marks, strict=False)]
    return responses.told_apart({folder.raw: folder for folder in made}.values())


listings = st.builds(
    folders,
    st.lists(raw_names, max_size=14, unique=True),
    st.lists(attributes, min_size=14, max_size=14),
    st.sampled_from(SEPARATORS),
)


@EXAMPLES
@given(names)
def test_a_name_that_we_write_is_read_as_it_was(name: str) -> None:
    raw = encode_mailbox(name)
    assert decode_mailbox(raw) == name.replace("\0", "\ufffd")
    assert all(0x20 <= octet <= 0x7E for octet in raw)
    assert grammar.quote(raw).count(b'"') >= 2


@EXAMPLES
@given(raw_names)
def test_a_name_that_a_server_writes_can_be_read_and_said_again(raw: bytes) -> None:
    """Whatever it is, what is shown of it can be written to any target, and reads the same there."""
    name = decode_mailbox(raw)
    again = encode_mailbox(name)
    assert decode_mailbox(again) == name
    listed = responses.listed_folders([Response([b'LIST () "/" ', b""], [raw])])
    assert [folder.raw for folder in listed] == [b"INBOX" if raw.upper() == b"INBOX" else raw]


@EXAMPLES
@given(
    listings,
    listings,
    st.sampled_from(SPACES),
    st.sampled_from(SPACES),
    st.sampled_from(SEPARATORS),
    st.sampled_from([row.traits for row in providers()]),
    st.randoms(use_true_random=False),
)
def test_every_folder_has_a_place_of_its_own_and_keeps_it(
    source: list[Folder],
    target: list[Folder],
    source_space: str,
    target_space: str,
    separator: str,
    traits: Traits,
    dice: random.Random,
) -> None:
    source_prefix = source_space + (source[0].separator if source else "") if source_space else ""
    target_prefix = target_space + separator if target_space and separator else ""

    def planned(there: list[Folder]) -> FolderPlan:
        return map_folders(
            source,
            there,
            source_prefix=source_prefix,
            target_prefix=target_prefix,
            target_separator=separator,
            traits=traits,
        )

    plan = settled(planned(target), refusing(dice))
    selectable = [folder for folder in source if folder.selectable]
    assert sorted(f.name for f in plan.sources) == sorted(folder.name for folder in selectable)
    assert_places(plan, target_prefix, separator)
    # A run that died after it had made the folders finds the same places, and makes nothing more.
    made = {pair.target_name for pair in plan.pairs if pair.create}
    there = [*target, *(Folder(encode_mailbox(name), name, separator, frozenset()) for name in made - {"INBOX"})]
    if all(pair.step == 0 for pair in plan.pairs):
        again = planned(there)
        assert [pair.target_name for pair in again.pairs] == [pair.target_name for pair in plan.pairs]
        assert not any(pair.create for pair in again.pairs)


def refusing(dice: random.Random) -> Callable[[str], bool]:
    """A server with rules of its own."""
    pattern = re.compile(
        dice.choice([r"(?!)", r"[.%*\"\\&]", r"/", r"^ | $|  ", r"[^\x20-\uffff]", r".{30}", r"[a-z]"])
    )
    return lambda name: bool(pattern.search(name))


def settled(plan: FolderPlan, refuses: Callable[[str], bool]) -> FolderPlan:
    """Let a target refuse names until it takes one, or there is none left."""
    refused: set[str] = set()
    for _ in range(200):
        refused |= {pair.target_name for pair in plan.pairs if pair.create and refuses(pair.target_name)}
        again = plan.renamed(refused) if refused else plan
        if again == plan:
            return plan
        plan = again
    raise AssertionError("there is always another name")


def assert_places(plan: FolderPlan, prefix: str, separator: str) -> None:
    """Only special folders, and those that are the same to IMAP, share a target; every name can be said."""
    shared = [pair for pair in plan.pairs if pair.role not in ROLES and pair.target_name != "INBOX"]
    assert len({pair.target_name.casefold() for pair in shared}) == len(shared)
    special = {pair.target_name.casefold() for pair in plan.pairs if pair.role in ROLES}
    assert not special & {pair.target_name.casefold() for pair in shared}
    for pair in plan.pairs:
        assert pair.target_name
        grammar.quote(encode_mailbox(pair.target_name))
        if pair.create:
            # What lies below a folder goes along with it, wherever the target has that one.
            assert pair.above or pair.target_name.startswith(prefix)
            assert not separator or "" not in pair.target_name.split(separator)
