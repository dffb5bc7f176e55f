"""What a roster's rows may decide in this installation: the settings' side of `models.roster_policy`."""

from collections.abc import Callable

from sqlalchemy import Engine
from sqlmodel import col, select

from imapcopy.errors import Side
from models.address_pairs import HeldPair, confirm_pairs, held_pairs
from models.database import reading
from models.detection import DefaultServers
from models.member import Member
from models.roster_policy import AliasesMistaken, KnownServers, PairRule, RowJudge, by_host, read_aliases
from models.wave import Wave
from tasks.settings import Settings, SettingUnusable, read_text
from tasks.store import Store


def judge_of(found: Settings, engine: Engine | None = None, wave: str = "") -> RowJudge:
    """What says of a row whether it decides what it may not; with a wave, its servers are known, too."""
    in_use = _in_use(engine, wave) if engine is not None and found.policy.hosts == "known" else {}
    return RowJudge(
        found.policy,
        {side: KnownServers(found.named_servers(side), by_host(in_use.get(side, ()))) for side in ("source", "target")},
        DefaultServers(found.source_host, found.target_host),
        {"source": found.source_port, "target": found.target_port},
        {"source": found.source_security, "target": found.target_security},
        found.plain_hosts,
    )


def _in_use(engine: Engine, wave: str) -> dict[Side, list[tuple[str, int | None]]]:
    old = select(Member.source_host, Member.source_port, Member.source_security)
    new = select(Member.target_host, Member.target_port, Member.target_security)
    found: dict[Side, list[tuple[str, int | None]]] = {"source": [], "target": []}
    with reading(engine) as session:
        for servers, own in ((found["source"], old), (found["target"], new)):
            rows = session.exec(own.join(Wave, col(Wave.id) == col(Member.wave_id)).where(Wave.name == wave).distinct())
            for host, port, security in rows:
                if host:
                    servers.append((host, port or (143 if security in ("starttls", "plain") else 993)))
    return found


def pair_rule(found: Settings) -> PairRule:
    """Which new addresses belong to which old logins; SettingUnusable when the file of pairs cannot be read."""
    file = found.policy.aliases
    if file is None:
        return PairRule(found.policy.agree)
    try:
        return PairRule(found.policy.agree, read_aliases(read_text(file), str(file)))
    except AliasesMistaken as mistaken:
        raise SettingUnusable(mistaken.told) from None


def pairs_held(kept: Store, wave: str) -> list[HeldPair]:
    """Members that are not begun before somebody has confirmed that their two addresses belong together."""
    return held_pairs(kept.engine, wave, pair_rule(kept.settings), _opened_by_others(kept.settings))


def confirm(kept: Store, wave: str, who: str) -> list[HeldPair]:
    """Confirm all that are held now; returns them."""
    held = pairs_held(kept, wave)
    confirm_pairs(kept.engine, wave, held, who)
    return held


def _opened_by_others(found: Settings) -> Callable[[Member], bool]:
    """Says of a member whether a mailbox of theirs is opened by an administrator or an application."""

    def is_opened(member: Member) -> bool:
        sides = (
            (member.source_admin, found.sign_in.source, member.source_host, found.source_host),
            (member.target_admin, found.sign_in.target, member.target_host, found.target_host),
        )
        return any(admin or asked.is_for(host or default, default) for admin, asked, host, default in sides)

    return is_opened
