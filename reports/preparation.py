"""What a member sees to at both mailboxes before a move: sections of an invitation, a reminder or a sheet. Pure.

The clicks are those of the member's own services, from the table of providers; where they are not known, general words.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from models.providers import ANYBODY, STEPS, Provider, Step
from reports.letters import Saying, Section, plain

IN_ADVANCE: dict[str, tuple[Step, ...]] = {
    "source": ("lock", "imap", "client_password", "receive_range"),
    "target": ("lock", "imap", "client_password"),
}
"""By side. A sign-in in a browser is confirmed once a server has asked for it; nothing is received from a target."""
ALWAYS = frozenset({"client_password", "receive_range"})
"""Asked for also where a service's own clicks are not known."""
FOR_PASSWORD = frozenset({"imap", "client_password"})
"""Not asked for where the password is there already."""


def preparation(
    say: Saying, source: Provider, target: Provider, contact: str, missing: Collection[str] = ("source", "target")
) -> tuple[Section, ...]:
    """All that the member does before; `missing` are the sides whose password is not known yet."""
    todo = [
        clicks(say, "source", source, kind)
        for kind in _kinds("source", source)
        if "source" in missing or kind not in FOR_PASSWORD
    ]
    if "target" in missing:
        todo += [clicks(say, "target", target, kind) for kind in _kinds("target", target)]
    if missing:
        todo.append(hand_over(say, contact))
    return numbered(say, todo)


def clicks(say: Saying, side: str, provider: Provider, kind: Step) -> Section:
    """The steps of one kind at one mailbox."""
    where = say("old_mailbox" if side == "source" else "new_mailbox")
    if provider.name != ANYBODY:
        where = say("mailbox_of", mailbox=where, service=say.of(provider.title))
    steps = tuple(map(say.of, provider.steps.get(kind, ()))) or (say(f"any_{kind}"),)
    lines = (say("range_why"),) if kind == "receive_range" else ()
    return Section(say("at", where=where, what=say.of(STEPS[kind][1])), lines, steps)


def hand_over(say: Saying, contact: str) -> Section:
    """To whom passwords go, and on no account how."""
    whom = say("hand_over_to", contact=plain(contact)) if contact else say("hand_over_anybody")
    return Section(say("hand_over"), (whom, say("hand_over_never"), say("hand_over_exact")))


def expectations(say: Saying) -> tuple[Section, Section]:
    """What both services will tell the member, and what to leave alone meanwhile."""
    return (
        Section(say("security"), (say("security_old"), say("security_new"), say("security_otherwise"))),
        Section(say("meanwhile"), (say("meanwhile_use"), say("meanwhile_password"), say("meanwhile_folders"))),
    )


def numbered(say: Saying, todo: Sequence[Section]) -> tuple[Section, ...]:
    """Things to do, numbered where there are several."""
    if len(todo) < 2:
        return tuple(todo)
    return tuple(replace(each, title=say("step", n=n, title=each.title)) for n, each in enumerate(todo, 1))


def _kinds(side: str, provider: Provider) -> list[Step]:
    return [kind for kind in IN_ADVANCE[side] if kind in ALWAYS or kind in provider.steps]
