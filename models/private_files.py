"""Files and folders that are nobody else's business: secrets, mail, reports, the database.

Read only when nobody else can have read or written them, and closed to others from the start, whatever the umask. What
is written never goes through a link that somebody left in its place.
"""

import grp
import os
import pwd
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from models.bilingual import Text

_OPEN = Text(
    "其他人可以读取或改写 {file}，请运行：chmod 600 {file}",
    "{file} can be read or written by others; run: chmod 600 {file}",
)
_STRANGER = Text(
    "{file} 属于另一个用户（uid {owner}），其中的内容不能采信；请用自己的用户重新写一个。",
    "{file} belongs to another user (uid {owner}), so what it holds cannot be trusted; write it anew as yourself.",
)
_NO_FILE = Text("{file} 不是普通文件。", "{file} is no ordinary file.")
_UNREADABLE = Text("无法读取 {file}：{why}", "{file} cannot be read: {why}")
_FOLDER = Text(
    "目录 {file} 属于另一个用户（uid {owner}），其中不能存放机密；请换一个目录（例如 BANJIA_HOME）。",
    "The folder {file} belongs to another user (uid {owner}) and can hold no secrets; choose another (as BANJIA_HOME).",
)
_ANYBODYS = Text(
    "任何人都可以改写目录 {file}；请换一个目录，或运行：chmod o-w {file}",
    "Anybody may write to the folder {file}; choose another, or run: chmod o-w {file}",
)
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Permissions of everybody but the owner."""


_NOT_COUNTED = Text(
    "{file} 不算数：{place} 属于另一个用户或可被其他人改写，其内容可能出自别人之手。"
    "若是您自己的，请 chown 给自己，并运行：chmod go-w {place}",
    "{file} does not count: {place} belongs to another user or can be written by others, so what it says may be "
    "somebody else's. If it is your own, chown it to yourself and run: chmod go-w {place}",
)


class NotPrivate(Exception):
    """A file of secrets is not ours alone, or cannot be read; `told` says why, and what to do."""

    def __init__(self, told: Text) -> None:
        self.told = told
        super().__init__(told.en)


def read_private(file: Path) -> bytes:
    """What a file holds that only we may read; FileNotFoundError when there is none, NotPrivate when others may."""
    try:
        # O_NONBLOCK: a pipe in its place would otherwise hold us for ever.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotPrivate(_UNREADABLE.format(file=file, why=error.strerror)) from None
    try:
        # Of what is open, not of the name: that may name something else by now.
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise NotPrivate(_NO_FILE.format(file=file))
        if found.st_uid not in (os.geteuid(), 0):
            raise NotPrivate(_STRANGER.format(file=file, owner=found.st_uid))
        if found.st_mode & OTHERS:
            raise NotPrivate(_OPEN.format(file=file))
        with os.fdopen(handle, "rb", closefd=False) as opened:
            return opened.read()
    finally:
        os.close(handle)


def why_not_counted(file: Path) -> Text | None:
    """Why what a file says may be another user's words; None when it is ours or root's, or not there."""
    if not os.path.lexists(file):
        return None
    # Of a link, both ends.
    ends = {file.absolute(), file.resolve()}
    for place in [*ends, *(end.parent for end in ends)]:
        try:
            found = place.stat()
        except OSError:
            return _NOT_COUNTED.format(file=file, place=place)
        if found.st_uid not in (os.geteuid(), 0) or _others_can_write(found):
            return _NOT_COUNTED.format(file=file, place=place)
    return None


def _others_can_write(found: os.stat_result) -> bool:
    """A group that has its one user alone, as some systems make them, is nobody else."""
    if not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    try:
        us, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(found.st_gid)
    except KeyError:
        return True
    ours = found.st_gid == us.pw_gid and group.gr_name == us.pw_name and set(group.gr_mem) <= {us.pw_name}
    return bool(found.st_mode & stat.S_IWOTH) or not ours


def write_private(file: Path, content: bytes | Iterable[bytes], *, durable: bool = True) -> None:
    """Write or replace a file, whole and with mode 0600; a link in its place is replaced itself.

    The content may come in pieces. What can be written again need not be `durable`: it waits for no disk.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        with create_private(temporary) as opened:
            opened.writelines((content,) if isinstance(content, bytes) else content)
            if durable:
                opened.flush()
                os.fsync(opened.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_private(file: Path) -> BinaryIO:
    """A new file with mode 0600 to write and read; FileExistsError where the name is taken, also by a link."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "w+b")


def open_private(file: str, flags: int) -> int:
    """For `open(..., opener=open_private)`: a file that is made has mode 0600, one that is there gets it."""
    handle = os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(handle).st_mode & OTHERS:
        os.fchmod(handle, 0o600)
    return handle


def make_private(folder: Path) -> None:
    """Make a folder that is ours alone, or close one that we have; NotPrivate when it is somebody else's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for found in (folder.lstat(), folder.stat()):
        # A link counts as whose it is: who may change it says where we write.
        if found.st_uid not in (os.geteuid(), 0) or (stat.S_ISDIR(found.st_mode) and found.st_uid != os.geteuid()):
            raise NotPrivate(_FOLDER.format(file=folder, owner=found.st_uid))
    if found.st_mode & OTHERS:
        folder.chmod(0o700)


def make_folder(folder: Path) -> None:
    """Make a folder for what an admin asked to have there, with mode 0700; one that is there stays as it is.

    NotPrivate for one that somebody else could put links into behind our back.
    """
    if not folder.is_dir():
        make_private(folder)
        return
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise NotPrivate(_FOLDER.format(file=folder, owner=found.st_uid))
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise NotPrivate(_ANYBODYS.format(file=folder))


def is_open(path: Path) -> bool:
    """Whether others may look into a file or folder of ours."""
    return bool(path.stat().st_mode & OTHERS)
