"""A wave: the members that move together, the roster problems found on the way in, and what happened when."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from models.columns import WIDE, now, stored_as_value
from models.states import WaveState


class Wave(SQLModel, table=True):
    """Members that move together."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=200)
    state: WaveState = Field(default=WaveState.DRAFT, sa_type=stored_as_value(WaveState))
    roster_columns: str = ""
    """Canonical column names of the last upload, comma separated, in its own order."""
    created_at: datetime = Field(default_factory=now)
    start_at: datetime | None = None
    flow_run_id: str | None = None
    run_started_at: datetime | None = None
    run_finished_at: datetime | None = None
    copied_before: int = 0
    bytes_before: int = Field(default=0, sa_type=WIDE)
    """What earlier runs had copied when the last one began."""
    reported_numbers: str | None = None
    """JSON of the last report's numbers, for "changes since"."""
    report_directory: str = ""
    """Where the admin wants the reports; "" is a folder under BANJIA_HOME."""
    credentials_purged_at: datetime | None = None
    notices_opened_at: datetime | None = None
    """When an admin first said that this wave's members are to be written to; nobody is before."""


class InvalidRow(SQLModel, table=True):
    """A problem of the last uploaded roster; the row of that line is not a member."""

    id: int | None = Field(default=None, primary_key=True)
    wave_id: int = Field(foreign_key="wave.id", index=True)
    line: int
    column: str
    value: str
    code: str
    problem_zh: str
    problem_en: str
    fix_zh: str
    fix_en: str


class Event(SQLModel, table=True):
    """Who did what, when and why: the timeline of a wave and of each member."""

    id: int | None = Field(default=None, primary_key=True)
    wave_id: int = Field(foreign_key="wave.id", index=True)
    member_id: int | None = Field(default=None, foreign_key="member.id", index=True)
    at: datetime = Field(default_factory=now)
    who: str = ""
    what: str
    why: str = ""
