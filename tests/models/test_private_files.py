"""Files of secrets: what is read, what is refused, and how they are written."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from models.database import open_database
from models.private_files import NotPrivate, create_private, make_folder, make_private, read_private, write_private

OTHER = 65534


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    write_private(file, b"canary")
    return file


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_file_of_secrets_is_ours_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_private(tmp_path / "secret", b"canary")
    finally:
        os.umask(before)
    assert _mode(tmp_path / "secret") == 0o600
    assert read_private(tmp_path / "secret") == b"canary"
    assert list(tmp_path.iterdir()) == [tmp_path / "secret"], "nothing else is left"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"of somebody else")
    (tmp_path / "secret").symlink_to(tmp_path / "elsewhere")
    write_private(tmp_path / "secret", b"canary")
    assert (tmp_path / "elsewhere").read_bytes() == b"of somebody else"
    assert not (tmp_path / "secret").is_symlink()


def _open(file: Path) -> None:
    file.chmod(0o640)


def _writable(file: Path) -> None:
    file.chmod(0o602)


def _another_users(file: Path) -> None:
    os.chown(file, OTHER, OTHER)


def _a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o700)


def _a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_open, "chmod 600"),
        (_writable, "chmod 600"),
        (_another_users, "another user"),
        (_a_folder, "ordinary file"),
        (_a_pipe, "ordinary file"),
    ],
)
def test_a_file_that_others_could_have_had_in_hand_is_refused(
    secret: Path, spoil: Callable[[Path], None], told: str
) -> None:
    if spoil is _another_users and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    spoil(secret)
    with pytest.raises(NotPrivate, match=told) as refused:
        read_private(secret)
    assert "canary" not in str(refused.value)
    assert refused.value.told.zh != refused.value.told.en


def test_a_file_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "secret")


def test_a_folder_that_others_can_look_into_is_closed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o755)
    make_private(tmp_path / "folder")
    assert _mode(tmp_path / "folder") == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.chown(tmp_path / "folder", OTHER, OTHER)
    with pytest.raises(NotPrivate, match="another user"):
        make_private(tmp_path / "folder")


def test_a_new_file_takes_no_name_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "mail.eml.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "mail.eml.part")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("make", [make_private, make_folder])
def test_a_folder_of_another_user_is_refused_and_a_link_of_theirs_to_ours_too(tmp_path: Path, make: object) -> None:
    assert callable(make)
    theirs, link = tmp_path / "theirs", tmp_path / "link"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, OTHER, OTHER)
    link.symlink_to(theirs)
    for folder in (theirs, link):
        with pytest.raises(NotPrivate, match=str(OTHER)):
            make(folder)
    ours, planted = tmp_path / "ours", tmp_path / "planted"
    ours.mkdir(mode=0o700)
    planted.symlink_to(ours)
    os.chown(planted, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(NotPrivate):
        make_private(planted)


def test_a_folder_of_the_admin_stays_as_it_is_unless_anybody_may_write_there(tmp_path: Path) -> None:
    shown, open_to_all, shared = tmp_path / "shown", tmp_path / "open", tmp_path / "shared"
    for folder, bits in ((shown, 0o755), (open_to_all, 0o777), (shared, 0o1777)):
        folder.mkdir()
        folder.chmod(bits)
    make_folder(shown)
    make_folder(shared)
    assert _mode(shown) == 0o755
    with pytest.raises(NotPrivate, match="chmod o-w"):
        make_folder(open_to_all)


def test_a_database_that_others_could_read_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "banjia.sqlite"
    open_database(f"sqlite:///{file}").dispose()
    assert _mode(file) == 0o600
    for beside in tmp_path.iterdir():
        beside.chmod(0o644)
    open_database(f"sqlite:///{file}").dispose()
    assert {path.name: _mode(path) for path in tmp_path.iterdir()} == dict.fromkeys(
        (path.name for path in tmp_path.iterdir()), 0o600
    )
