"""Says where each folder of a mailbox would go, and why, from what both sides list. Writes to neither."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from imapcopy.account import Account
from imapcopy.copy_mailbox import plan_each_once
from imapcopy.copy_options import CopyOptions
from imapcopy.endpoint import source_endpoint, target_endpoint
from imapcopy.folders import Place
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import TargetConnection


@dataclass(frozen=True, slots=True)
class PlannedFolder:
    """One source folder; `target_name` is "" when it is left out, `messages` None where the server does not tell."""

    source_name: str
    target_name: str
    new: bool
    role: str
    why: str
    messages: int | None


def plan_mailbox(
    source: Account,
    target: Account,
    options: CopyOptions,
    known: Mapping[str, Place],
    remembered: Collection[str] = (),
) -> list[PlannedFolder]:
    """The folders that would be moved, in their order, then those that would be left out.

    What the target refuses shows only when it is asked to create a folder: then it gets another name.
    """
    with source_endpoint(source) as from_source, target_endpoint(target) as to_target:
        old = from_source.ask(SourceConnection.listing, statuses=True)
        new = to_target.ask(TargetConnection.listing)
        options = replace(options, known=options.known.of(to_target.connection.greeting))
        plan, statuses = plan_each_once(from_source, old, new, options, known, remembered)
        counts = {raw: status.messages for raw, status in statuses.items()}
        moved = [
            PlannedFolder(
                pair.source.name, pair.target_name, pair.create, pair.role, pair.why, counts.get(pair.source.raw)
            )
            for pair in plan.pairs
        ]
        stays = [
            PlannedFolder(each.source.name, "", False, "", each.why, counts.get(each.source.raw))
            for each in plan.left_out
        ]
        return moved + stays
