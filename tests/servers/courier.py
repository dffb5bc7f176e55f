"""A real mail server for one test run: Courier-IMAP 5 on a loopback port, configured as Debian does."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.servers.dovecot import User, wait_until
from tests.servers.unpacked import NOBODY, Unpacked

_SETTING = re.compile(r'^(\w+)="?([^"\n]*)"?$', re.MULTILINE)

StartCourier = Callable[..., "Courier"]


class Courier(Unpacked):
    """A throw-away Courier below `directory`; `settings` replace Debian's in /etc/courier/imapd."""

    package = "courier"
    accounts = ("courier",)

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = dict(settings or {})

    def add_users(self, users: Sequence[User]) -> None:
        for number, user in enumerate(users, start=len(self.users)):
            self.make(f"srv/mail/{number}")
            self.run("/usr/bin/maildirmake.courier", f"/srv/mail/{number}/Maildir")
            self.users[user.name] = user
        accounts = {
            name: f"uid={NOBODY}|gid={NOBODY}|home=/srv/mail/{number}" for number, name in enumerate(self.users)
        }
        self._write_database("userdb", accounts)
        self._write_database("userdbshadow", {name: f"imappw={_hashed(u.password)}" for name, u in self.users.items()})

    def _write_database(self, name: str, values: Mapping[str, str]) -> None:
        lines = "".join(f"{key}\t{value}\n" for key, value in values.items())
        files = ("/etc/courier/new", f"/etc/courier/{name}.dat")
        self.run("/usr/lib/courier/courier-authlib/makedatprog", "-", *files, send=f"{lines}.\n".encode())

    def _lay_out(self) -> None:
        super()._lay_out()
        self.make("etc/courier", "srv/mail", "run/courier", "run/courier/authdaemon")
        modules = 'authmodulelist="authuserdb"\ndaemons=2\nauthdaemonvar=/run/courier/authdaemon\n'
        self.write("etc/courier/authdaemonrc", modules)
        self.add_users([])

    def _launch(self) -> None:
        socket = self.root / "run/courier/authdaemon/socket"
        socket.unlink(missing_ok=True)
        self.spawn("/usr/lib/courier/courier-authlib/authdaemond")
        wait_until(socket.exists, "Courier's authdaemond")
        shipped = dict(_SETTING.findall((self.root / "etc/courier/imapd").read_text()))
        # The password goes over loopback; Debian offers PLAIN over TLS only.
        settings = shipped | {"IMAP_CAPABILITY": shipped["IMAP_CAPABILITY"] + " AUTH=PLAIN"} | self._settings
        limits = (f"-maxprocs={settings['MAXDAEMONS']}", f"-maxperip={settings['MAXPERIP']}")
        self.spawn(
            *("/usr/sbin/couriertcpd", f"-address={self.host}", *limits, *settings["TCPDOPTS"].split(), str(self.port)),
            *("/usr/lib/courier/courier/imaplogin", "/usr/bin/imapd", settings["MAILDIRPATH"]),
            environment=settings,
            memory=int(settings["IMAP_ULIMITD"]) * 1024,
        )


def _hashed(password: str) -> str:
    return "{SHA256}" + base64.b64encode(hashlib.sha256(password.encode()).digest()).decode()
