"""Where folders go whose place does not follow from their name, and which stay behind: written down for the report."""

from collections.abc import Iterable

from sqlmodel import Field, Session, SQLModel, UniqueConstraint, select


class FolderPlace(SQLModel, table=True):
    """One source folder of a member. A folder that keeps its name has no row: its `FolderCopy` says all."""

    __table_args__ = (UniqueConstraint("member_id", "source_name"),)

    id: int | None = Field(default=None, primary_key=True)
    member_id: int = Field(foreign_key="member.id", index=True)
    source_name: str
    target_name: str
    """"" for a folder that is not moved."""
    why: str
    """What decided: a name in `reports/texts.toml`."""
    messages: int = 0
    """Of a folder that is not moved: how many messages stay there. Of a view: how many are in other folders too."""


def replace_places(session: Session, member_id: int, places: Iterable[FolderPlace]) -> None:
    """Let these be the member's places; rows that stay as they are are not touched."""
    wanted = {place.source_name: place for place in places}
    for row in session.exec(select(FolderPlace).where(FolderPlace.member_id == member_id)).all():
        new = wanted.pop(row.source_name, None)
        if new is None:
            session.delete(row)
        else:
            row.target_name, row.why, row.messages = new.target_name, new.why, new.messages
            session.add(row)
    session.add_all(wanted.values())
