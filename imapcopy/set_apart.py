"""Asks a server about many folders in flight; one at which it falls silent, or says what cannot be read, is set apart.

One folder of half a million messages, or with a damaged index, must not keep the others back: it is asked about last,
alone and with more patience, and what it costs then is that folder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from imapcopy.connection import Connection
from imapcopy.endpoint import Endpoint
from imapcopy.errors import ConnectionLost, FolderError

C = TypeVar("C", bound=Connection)
T = TypeVar("T")
A = TypeVar("A")

PATIENCE = 5.0
"""So many times as long as elsewhere a folder may be silent that is asked about alone."""
IN_VAIN = 3
"""So many connections that end one after the other before anything was told are the server's fault, no folder's."""
MOST_APART = 20
"""Folders that are asked about alone at one time; each takes its time."""


def ask_each(
    end: Endpoint[C],
    folders: Iterable[T],
    ask: Callable[[C, Sequence[T]], Iterable[tuple[T, A]]],
    name: Callable[[T], str],
    *,
    alone: bool = True,
) -> Iterator[tuple[T, A | FolderError]]:
    """What `ask` tells of each folder; for one that was set apart in vain, why. `alone`: ask about it once more."""
    due = list(folders)
    apart: list[tuple[T, ConnectionLost]] = []
    in_vain = 0
    while due:
        told: set[T] = set()
        try:
            for folder, answer in end.each(due, ask):
                told.add(folder)
                yield folder, answer
            break
        except ConnectionLost as lost:
            left = [folder for folder in due if folder not in told]
            in_vain = 0 if told else in_vain + 1
            if not _may_be_the_folder(lost) or not left or in_vain >= IN_VAIN or len(apart) >= MOST_APART:
                raise
            # Answers come in the order of the questions.
            apart.append((left[0], lost))
            due = left[1:]
            end.check_stop()
            end.reopen()
    for folder, failure in apart:
        if alone and failure.cause_id == "timeout":
            yield folder, _asked_alone(end, folder, ask, name)
        else:
            # Asked again it would say the same.
            yield folder, failure.told_as(FolderError, where=name(folder))


def _asked_alone(
    end: Endpoint[C], folder: T, ask: Callable[[C, Sequence[T]], Iterable[tuple[T, A]]], name: Callable[[T], str]
) -> A | FolderError:
    end.check_stop()
    connection = end.connection
    connection.be_patient(PATIENCE)
    try:
        [(_, answer)] = ask(connection, [folder])
    except ConnectionLost as lost:
        end.reopen()
        if not _may_be_the_folder(lost):
            raise
        return lost.told_as(FolderError, where=name(folder))
    connection.be_patient(1.0)
    return answer


def _may_be_the_folder(lost: ConnectionLost) -> bool:
    return lost.cause_id in {"timeout", "unreadable_answer"}
