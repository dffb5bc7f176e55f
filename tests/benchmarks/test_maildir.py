"""Mail that a benchmark stores without a session is the mail that a client would have stored."""

from collections.abc import Iterator

import pytest

from benchmarks.bench import MEMORY
from benchmarks.servers import LeanDovecot, two_servers
from benchmarks.shapes import SHAPES
from tests.servers.compare import assert_same_mail, mail_of
from tests.servers.mail import seed


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[LeanDovecot, LeanDovecot]]:
    with two_servers("full", MEMORY, list(SHAPES), list(SHAPES)) as started:
        yield started


@pytest.mark.dovecot
# Not the one whose only message of interest is too large for a test.
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "huge"])
def test_stored_files_read_like_appended_messages(shape: str, servers: tuple[LeanDovecot, LeanDovecot]) -> None:
    by_file, by_append = servers
    messages = list(SHAPES[shape].make("one", 60 / SHAPES[shape].messages))

    by_file.maildir(shape).store(messages)
    by_file.index()
    seed(by_append, shape, by_append.users[shape].password, messages)

    assert_same_mail(mail_of(by_append, shape), mail_of(by_file, shape))
    assert by_file.message_count(shape) == len(messages) == 60
