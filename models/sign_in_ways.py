"""How servers are signed in to that do not take what would be tried first: a row a server and kind of credential."""

from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Field, SQLModel, UniqueConstraint, select

from models.columns import now
from models.database import reading, writing


class SignInWay(SQLModel, table=True):
    """The mechanism that a server took; `server` is its host and port."""

    __table_args__ = (UniqueConstraint("server", "credential"),)

    id: int | None = Field(default=None, primary_key=True)
    server: str
    credential: str
    mechanism: str
    at: datetime = Field(default_factory=now)


def sign_in_ways(engine: Engine) -> dict[tuple[str, str], str]:
    """The mechanism by server and credential."""
    with reading(engine) as session:
        rows = session.exec(select(SignInWay.server, SignInWay.credential, SignInWay.mechanism))
        return {(server, credential): mechanism for server, credential, mechanism in rows}


def note_sign_in_way(engine: Engine, server: str, credential: str, mechanism: str) -> None:
    """Remember that this mechanism worked."""
    with writing(engine) as session:
        same = SignInWay.server == server, SignInWay.credential == credential
        row = session.exec(select(SignInWay).where(*same)).first()
        row = row or SignInWay(server=server, credential=credential, mechanism=mechanism)
        row.mechanism, row.at = mechanism, now()
        session.add(row)
