"""Lists both sides of one member and says where its folders would go. Nothing is written, and no state changes."""

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from imapcopy.copy_mailbox import known_places, seconds
from imapcopy.errors import MigrationError
from imapcopy.plan_mailbox import PlannedFolder, plan_mailbox
from models.database import reading
from models.ledger import Ledger
from models.member import Member
from tasks.governor import Places
from tasks.migrate_member import copy_options
from tasks.store import store


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """Where the folders of one member would go; `cause` says why that cannot be told."""

    email: str
    folders: tuple[PlannedFolder, ...] = ()
    cause: str | None = None
    side: str = ""


@task(task_run_name="plan {email}", cache_policy=NO_CACHE, persist_result=False)
def plan_member(member_id: int, email: str) -> MemberPlan:
    """Plan one member. A member that another runner moves just now can be planned, too."""
    kept = store()
    with reading(kept.engine) as session:
        member = session.get_one(Member, member_id)
    ledger = Ledger(kept.engine, member_id, token=0)
    try:
        places = Places(kept, member_id)
        with places.taken(kept.accounts(member)) as (source, target):
            before = ledger.places()
            known = known_places(ledger.folders(), before)
            options = copy_options(kept, member, places.spare)
            return MemberPlan(email, tuple(plan_mailbox(source, target, options, known, seconds(before))))
    except MigrationError as error:
        return MemberPlan(email, cause=error.cause_id, side=error.side)
