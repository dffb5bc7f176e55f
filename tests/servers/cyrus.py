"""A real mail server for one test run: Cyrus 3.6 on a loopback port, configured as Debian does."""

import imaplib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.servers.dovecot import DEADLINE, User
from tests.servers.unpacked import Unpacked

ADMIN = User("admin", "cyrus admin 7")
REALM = "localhost"

StartCyrus = Callable[..., "Cyrus"]


class Cyrus(Unpacked):
    """A throw-away Cyrus below `directory`; `settings` are added to imapd.conf: `{"reject8bit": "yes"}`.

    User names have no `@`, which Cyrus takes for another realm. Where `.` separates folders, a user with a `.` in the
    name is shown none.
    """

    package = "cyrus"
    accounts = ("cyrus",)

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = dict(settings or {})

    def add_users(self, users: Sequence[User]) -> None:
        separator = "/" if self._settings.get("unixhierarchysep") == "yes" else "."
        for user in users:
            if "@" in user.name:
                raise ValueError(f"Cyrus cannot serve {user.name!r} here")
            self._set_password(user)
        with imaplib.IMAP4(self.host, self.port, timeout=DEADLINE) as connection:
            connection.authenticate("PLAIN", lambda _: f"\0{ADMIN.name}\0{ADMIN.password}".encode())
            for user in users:
                # How Cyrus writes a dot that separates no folders.
                owner = user.name.replace(".", "^") if separator == "." else user.name
                state, answer = connection.create(f"user{separator}{owner}")
                if state != "OK":
                    raise RuntimeError(f"{user.name}: {answer}")
        self.users |= {user.name: user for user in users}

    def _set_password(self, user: User) -> None:
        command = ("/usr/sbin/saslpasswd2", "-p", "-c", "-f", "/srv/sasldb2", "-u", REALM, user.name)
        self.run(*command, send=user.password.encode())

    def _lay_out(self) -> None:
        super()._lay_out()
        self.make("srv", "srv/db", "srv/db/db", "srv/db/socket", "srv/mail", "srv/run")
        self._set_password(ADMIN)

    def _launch(self) -> None:
        settings = _SETTINGS | self._settings
        self.write("srv/imapd.conf", "".join(f"{name}: {value}\n" for name, value in settings.items()))
        self.write("srv/cyrus.conf", _SERVICES.format(host=self.host, port=self.port))
        master = ("/usr/lib/cyrus/bin/master", "-D", "-C", "/srv/imapd.conf", "-M", "/srv/cyrus.conf")
        self.spawn(*master, "-p", "/srv/run/master.pid")


_SETTINGS = {
    # As Debian's package has them.
    "altnamespace": "no",
    "unixhierarchysep": "no",
    "autocreate_quota": "0",
    "umask": "077",
    "hashimapspool": "true",
    "allowplaintext": "yes",
    "sasl_pwcheck_method": "auxprop",
    "sasl_auto_transition": "no",
    "syslog_prefix": "cyrus",
    # A refused password is answered at once.
    "failedloginpause": "0",
    # Where it lives here, and who may enter.
    "configdirectory": "/srv/db",
    "proc_path": "/srv/run/proc",
    "mboxname_lockpath": "/srv/run/lock",
    "idlesocket": "/srv/run/idle",
    "notifysocket": "/srv/run/notify",
    "defaultpartition": "default",
    "partition-default": "/srv/mail",
    "servername": REALM,
    "admins": ADMIN.name,
    "sasl_auxprop_plugin": "sasldb",
    "sasl_sasldb_path": "/srv/sasldb2",
    "sasl_mech_list": "PLAIN",
}
_SERVICES = """\
START {{
  recover cmd="ctl_cyrusdb -C /srv/imapd.conf -r"
}}
SERVICES {{
  imap cmd="imapd -C /srv/imapd.conf -U 30" listen="{host}:{port}" prefork=0 maxchild=100
}}
EVENTS {{
  checkpoint cmd="ctl_cyrusdb -C /srv/imapd.conf -c" period=30
}}
"""
