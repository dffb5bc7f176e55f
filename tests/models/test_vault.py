"""The vault: passwords can be read by nobody without the key, and are never lost by changing it."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select

from models.database import reading, writing
from models.member import Member
from models.private_files import write_private
from models.vault import Secret, Vault, VaultClosed
from tests.models.company import Company
from tests.servers.databases import full_url, on_sqlite
from tests.servers.secrets_scan import find_secrets

PASSWORD = 'Zürich "密码"\\ 7;%+ canary'
ROOT = Path(__file__).parents[2]


@pytest.fixture
def member_id(company: Company) -> int:
    return company.add("a@new.example")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "vault.key"


def sealed(engine: Engine) -> list[bytes]:
    with reading(engine) as session:
        return [row.sealed for row in session.exec(select(Secret).order_by(Secret.id)).all()]  # type: ignore[arg-type]


def test_a_password_comes_back_as_it_was(vault: Vault, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    assert vault.get(member_id, "source") == PASSWORD
    assert vault.get(member_id, "target") is None


def test_a_new_password_replaces_the_one_before(vault: Vault, engine: Engine, member_id: int) -> None:
    vault.put(member_id, "source", "the first one")
    vault.put(member_id, "source", PASSWORD)
    assert vault.get(member_id, "source") == PASSWORD
    assert len(sealed(engine)) == 1


def test_the_key_belongs_to_its_owner_alone(vault: Vault, key_file: Path, member_id: int) -> None:
    before = os.umask(0)
    try:
        vault.put(member_id, "source", PASSWORD)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(vault: Vault, key_file: Path, member_id: int, mode: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    key_file.chmod(mode)
    for use in (lambda: vault.get(member_id, "source"), lambda: vault.put(member_id, "source", "x"), vault.check):
        with pytest.raises(VaultClosed, match="chmod 600"):
            use()


def test_nothing_stored_needs_no_key(vault: Vault, key_file: Path, member_id: int) -> None:
    vault.check()
    vault.put_many([])
    assert vault.get(member_id, "source") is None
    assert not key_file.exists()


def test_a_lost_key_closes_the_vault_and_says_so(vault: Vault, key_file: Path, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    key_file.unlink()
    for use in (lambda: vault.get(member_id, "source"), vault.check):
        with pytest.raises(VaultClosed, match="no key"):
            use()


def test_another_key_closes_the_vault(vault: Vault, key_file: Path, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    key_file.write_bytes(Fernet.generate_key())
    for use in (lambda: vault.get(member_id, "source"), vault.check, vault.rotate):
        with pytest.raises(VaultClosed, match="do not open"):
            use()


@pytest.mark.parametrize("content", [b"no key at all\n", b"\xff\xfe\x00", b"AAAA\n"])
def test_a_file_that_holds_no_key_closes_the_vault(
    vault: Vault, key_file: Path, member_id: int, content: bytes
) -> None:
    vault.put(member_id, "source", PASSWORD)
    key_file.write_bytes(content)
    with pytest.raises(VaultClosed, match="something else than keys"):
        vault.get(member_id, "source")


def test_a_key_that_cannot_be_read_closes_the_vault(vault: Vault, key_file: Path, member_id: int) -> None:
    key_file.mkdir(parents=True, mode=0o700)
    with pytest.raises(VaultClosed, match="no ordinary file"):
        vault.put(member_id, "source", PASSWORD)


def test_after_a_rotation_only_the_new_key_opens(
    vault: Vault, engine: Engine, key_file: Path, member_id: int, company: Company
) -> None:
    other = company.add("b@new.example")
    vault.put_many([(member_id, "source", PASSWORD), (member_id, "target", "second one"), (other, "source", "third")])
    old = key_file.read_bytes()
    assert vault.rotate() == 3
    assert vault.get(member_id, "source") == PASSWORD
    assert vault.get(other, "source") == "third"
    new = key_file.read_bytes().split()
    assert len(new) == 1
    assert new != old.split()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key_file.write_bytes(old)
    with pytest.raises(VaultClosed):
        vault.get(member_id, "source")


def test_every_key_of_the_file_opens_and_the_newest_seals(vault: Vault, key_file: Path, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    old, new = key_file.read_bytes().strip(), Fernet.generate_key()
    key_file.write_bytes(new + b"\n" + old + b"\n")
    assert vault.get(member_id, "source") == PASSWORD
    vault.put(member_id, "target", "sealed with the new one")
    key_file.write_bytes(new + b"\n")
    assert vault.get(member_id, "target") == "sealed with the new one"


def test_a_rotation_that_was_killed_half_way_locks_nobody_out(
    vault: Vault, engine: Engine, key_file: Path, member_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new key is written, nothing is sealed with it yet; then again, sealed, and the old key not yet dropped."""
    vault.put(member_id, "source", PASSWORD)
    before = sealed(engine)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            vault.rotate()
    assert len(key_file.read_bytes().split()) == 2
    assert sealed(engine) == before
    assert vault.get(member_id, "source") == PASSWORD

    write = Vault._write_keys
    calls: list[int] = []

    def killed_the_second_time(self: Vault, keys: list[bytes]) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, keys)

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "_write_keys", killed_the_second_time)
        with pytest.raises(KeyboardInterrupt):
            vault.rotate()
    assert sealed(engine) != before
    assert vault.get(member_id, "source") == PASSWORD

    assert vault.rotate() == 1
    assert len(key_file.read_bytes().split()) == 1
    assert vault.get(member_id, "source") == PASSWORD


def test_a_password_stored_while_the_keys_change_is_sealed_with_one_that_stays(
    vault: Vault, engine: Engine, key_file: Path, member_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotation comes when the password is about to be stored: the last moment at which an old key could be used."""
    vault.put(member_id, "target", "there before")
    other = Vault(engine, key_file)
    begin = Session.__enter__
    rotations: list[int] = []

    def rotate_first(self: Session) -> Session:
        if not rotations:
            rotations.append(0)
            rotations[0] = other.rotate()
        return begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "__enter__", rotate_first)
        vault.put(member_id, "source", PASSWORD)
    assert rotations == [1]
    assert vault.get(member_id, "source") == PASSWORD


def test_a_rotation_between_a_look_at_the_row_and_one_at_the_keys_does_no_harm(
    vault: Vault, engine: Engine, key_file: Path, member_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.put(member_id, "source", PASSWORD)
    read = Vault._keys
    rotated: list[int] = []

    def rotate_first(self: Vault) -> list[bytes]:
        if not rotated:
            rotated.append(1)
            Vault(engine, key_file).rotate()
        return read(self)

    monkeypatch.setattr(Vault, "_keys", rotate_first)
    assert vault.get(member_id, "source") == PASSWORD
    assert rotated


def test_a_ciphertext_moved_to_another_row_does_not_open_there(
    vault: Vault, engine: Engine, member_id: int, company: Company
) -> None:
    other = company.add("b@new.example")
    vault.put_many([(member_id, "source", PASSWORD), (other, "source", "not yours"), (member_id, "target", "third")])
    stolen = sealed(engine)[0]
    for owner, side in ((other, "source"), (member_id, "target")):
        with writing(engine) as session:
            row = session.exec(select(Secret).where(Secret.member_id == owner, Secret.side == side)).one()
            row.sealed = stolen
            session.add(row)
        with pytest.raises(VaultClosed, match="another member"):
            vault.get(owner, "source" if side == "source" else "target")


def test_purging_deletes_the_passwords_of_these_members_and_no_others(
    vault: Vault, engine: Engine, member_id: int, company: Company
) -> None:
    other = company.add("b@new.example")
    vault.put_many([(member_id, "source", PASSWORD), (member_id, "target", "second"), (other, "source", "stays")])
    assert vault.purge([member_id]).passwords == 2
    assert vault.purge([member_id]).passwords == 0
    assert vault.get(member_id, "source") is None
    assert vault.get(other, "source") == "stays"


@on_sqlite
def test_what_is_purged_is_no_longer_in_the_file(vault: Vault, engine: Engine, member_id: int, tmp_path: Path) -> None:
    """Not even sealed: the key may still be there, and backups of it."""
    vault.put(member_id, "source", PASSWORD)
    (token,) = sealed(engine)
    assert vault.purge([member_id]).still_in == ()
    assert not any(token in file.read_bytes() for file in tmp_path.glob("banjia.sqlite*"))
    engine.dispose()  # the last connection takes the write-ahead log in
    files = list(tmp_path.glob("banjia.sqlite*"))
    assert files
    assert not any(token in file.read_bytes() for file in files)


@on_sqlite
def test_a_purge_says_when_another_process_still_reads_the_database_as_it_was(
    vault: Vault, engine: Engine, member_id: int, tmp_path: Path
) -> None:
    vault.put(member_id, "source", PASSWORD)
    file = tmp_path / "banjia.sqlite"
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM secret").fetchone()
    assert Path(f"{file}-wal") in vault.purge([member_id]).still_in
    reader.close()
    assert vault.purge([member_id]).still_in == ()


@on_sqlite
def test_a_lost_key_makes_no_new_one_beside_sealed_secrets(vault: Vault, key_file: Path, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    vault.put_standing("target", "of the administrator")
    lost = key_file.read_bytes()
    key_file.unlink()
    for store in (lambda: vault.put(member_id, "target", "another"), lambda: vault.put_standing("smtp", "another")):
        with pytest.raises(VaultClosed, match="2 sealed secrets need it"):
            store()
    assert not key_file.exists()
    write_private(key_file, lost)
    vault.put(member_id, "target", "another")
    assert vault.get(member_id, "source") == PASSWORD


@on_sqlite
def test_the_check_of_the_vault_tries_every_secret(
    vault: Vault, engine: Engine, company: Company, member_id: int
) -> None:
    for number in range(5):
        vault.put(company.add(f"m{number}@new.example"), "source", PASSWORD)
    vault.check()
    with writing(engine) as session:
        row = session.exec(select(Secret).order_by(col(Secret.id).desc())).first()
        assert row
        row.sealed = Fernet(Fernet.generate_key()).encrypt(b"another key's")
        session.add(row)
    with pytest.raises(VaultClosed, match="1 of 5"):
        vault.check()


def test_a_wave_of_any_size_can_be_purged(vault: Vault, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    assert vault.purge(range(1, 40_000)).passwords == 1


def test_no_password_is_in_the_database_nor_in_what_is_printed(
    vault: Vault, engine: Engine, member_id: int, tmp_path: Path
) -> None:
    vault.put(member_id, "source", PASSWORD)
    with reading(engine) as session:
        shown = repr(session.exec(select(Secret)).all()) + repr(session.get(Member, member_id)) + repr(vars(vault))
    assert not find_secrets([PASSWORD], [file for file in tmp_path.rglob("*") if file.is_file()])
    assert "canary" not in shown


def test_a_secret_without_its_member_cannot_be(vault: Vault, engine: Engine, member_id: int) -> None:
    vault.put(member_id, "source", PASSWORD)
    with pytest.raises(Exception, match=r"(?i)foreign key"), writing(engine) as session:
        session.exec(delete(Member))


@on_sqlite
def test_two_processes_that_make_the_first_key_use_the_same(
    vault: Vault, engine: Engine, key_file: Path, company: Company
) -> None:
    """All are at the door when the go comes. It is about the key file, whatever the database."""
    members = [company.add(f"{n}@new.example") for n in range(4)]
    code = (
        "import sys; from pathlib import Path;"
        "from models.database import open_database; from models.vault import Vault;"
        f"v = Vault(open_database({full_url(engine)!r}), Path({str(key_file)!r}));"
        "print('ready', flush=True); sys.stdin.readline();"
        "v.put(int(sys.argv[1]), 'source', 'password of ' + sys.argv[1])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(member)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for member in members
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
        assert process.returncode == 0
    assert len(key_file.read_bytes().split()) == 1
    assert [vault.get(member, "source") for member in members] == [f"password of {member}" for member in members]
