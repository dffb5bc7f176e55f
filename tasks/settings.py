"""What an admin sets: `BANJIA_*` in the environment, over `banjia.toml` here, over `banjia.toml` in BANJIA_HOME."""

import locale
import os
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from imapcopy.account import Security
from models.bilingual import Language


def home_directory() -> Path:
    """BANJIA_HOME, or ~/.banjia."""
    return Path(os.environ.get("BANJIA_HOME") or "~/.banjia").expanduser().absolute()


class Settings(BaseSettings):
    """Every setting, with its default."""

    model_config = SettingsConfigDict(env_prefix="BANJIA_", extra="forbid", env_ignore_empty=True)

    home: Path = Field(default_factory=home_directory, description="where state, keys, logs and reports are kept")
    database_url: str = Field(default="", description="SQLAlchemy URL; default: SQLite in BANJIA_HOME")
    vault_key_file: Path | None = Field(default=None, description="key file; default: keys/vault.key in BANJIA_HOME")
    ca_file: Path | None = Field(default=None, description="a private certificate authority to trust, PEM")
    plain_hosts: tuple[str, ...] = Field(default=(), description="hosts that may be spoken to in clear text")
    source_host: str = Field(default="", description="old server of rows that name none")
    source_port: int | None = Field(default=None, description="its port")
    source_security: Security = Field(default="tls", description="tls, starttls or plain")
    target_host: str = Field(default="", description="new server of rows that name none")
    target_port: int | None = Field(default=None, description="its port")
    target_security: Security = Field(default="tls", description="tls, starttls or plain")
    members_at_once: int = Field(default=8, ge=1, le=256, description="members moved at the same time")
    host_connections: int = Field(default=8, ge=1, description="members at the same time from one source server")
    target_connections: int = Field(default=16, ge=1, description="members at the same time into one target server")
    retry_delays: tuple[float, ...] = Field(
        default=(5.0, 20.0, 60.0), description="seconds before each new try of a member"
    )
    language: Language | None = Field(default=None, description="zh-CN or en; default: the terminal's")
    time_zone: str = Field(default="UTC", description="zone in which reports show times, for example Asia/Shanghai")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, Path("banjia.toml")),
            TomlConfigSettingsSource(settings_cls, home_directory() / "banjia.toml"),
        )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        ZoneInfo(name)
        return name

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'banjia.sqlite'}"

    @property
    def key_file(self) -> Path:
        return self.vault_key_file or self.home / "keys" / "vault.key"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def spoken_language(self) -> Language:
        """The language of the terminal and of the first report page."""
        if self.language:
            return self.language
        spoken = os.environ.get("LC_ALL") or os.environ.get("LANG") or locale.getlocale()[0] or ""
        return "zh-CN" if spoken.lower().startswith("zh") else "en"


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
