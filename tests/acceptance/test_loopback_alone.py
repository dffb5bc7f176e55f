"""A move between two servers of this machine has nothing to say to any other: no telemetry, no updates, no names."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.acceptance.command_line import LONGEST_RUN, PROGRAM
from tests.tasks.office import opened_office

pytestmark = pytest.mark.prefect

# As strace writes a sockaddr: of what is connected to, and of datagrams that need no connection.
ADDRESS = re.compile(
    r'sa_family=AF_INET6?,.*?(?:inet_addr\("(?P<four>[^"]+)"\)|inet_pton\(AF_INET6, "(?P<six>[^"]+)")', re.DOTALL
)
FAMILY = re.compile(r"sa_family=(AF_\w+)")
# Nothing of these leaves the machine; AF_UNSPEC takes an address back.
AT_HOME = {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_UNSPEC"}


def spoken_to(command: Sequence[str | Path], trace: Path, **options: object) -> tuple[int, set[str]]:
    """Run a command and all that it starts, to the last of them; its exit code, and the addresses they spoke to."""
    strace = shutil.which("strace") or pytest.fail("strace is not installed: run tests/setup/install_servers")
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    watched = [strace, "-f", "--seccomp-bpf", "-qq", "-e", calls, "-e", "signal=none", "-s", "0", "-o", trace, *command]
    code = subprocess.run(watched, check=False, timeout=LONGEST_RUN, **options).returncode  # type: ignore[call-overload]
    seen = trace.read_text(errors="replace")
    assert set(FAMILY.findall(seen)) <= AT_HOME
    return code, {found["four"] or found["six"] for found in ADDRESS.finditer(seen)}


def leaves(address: str) -> bool:
    found = ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return not (mapped or found).is_loopback


def test_nothing_but_loopback_is_spoken_to_in_a_move(tmp_path: Path) -> None:
    with opened_office() as office:
        office.add("li")
        roster = office.write_roster(tmp_path / "members.csv")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BANJIA_"))}
        # Prefect's own server is watched, too, from its start to its end.
        program = shlex.quote(str(PROGRAM))
        script = f"{program} migrate {shlex.quote(str(roster))}; code=$?; {program} prefect stop; exit $code"
        code, addresses = spoken_to(
            ["sh", "-c", script],
            tmp_path / "trace",
            cwd=tmp_path,
            env={**clean, "BANJIA_HOME": str(tmp_path / "home")},
        )
        assert code == 0
        assert office.mail(office.new, "li") == office.mail(office.old, "li")
    assert "127.0.0.1" in addresses, "nobody was seen to speak to the mail servers"
    assert not list(filter(leaves, addresses))


def test_what_would_leave_is_seen(tmp_path: Path) -> None:
    # Addresses for documentation (RFC 5737, RFC 3849): nobody has them.
    script = """if True:
        import contextlib, socket
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, "192.0.2.1"), (socket.AF_INET6, socket.SOCK_STREAM, "2001:db8::1"),
            (socket.AF_INET6, socket.SOCK_STREAM, "::ffff:192.0.2.2"), (socket.AF_INET, socket.SOCK_DGRAM, "192.0.2.3"),
        ):
            with contextlib.suppress(OSError), socket.socket(family, kind) as one:
                one.setblocking(False)
                one.connect((address, 53)) if kind == socket.SOCK_STREAM else one.sendto(b"?", (address, 53))
    """
    _, addresses = spoken_to([sys.executable, "-c", script], tmp_path / "trace")
    assert {a for a in addresses if leaves(a)} == {"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.2", "192.0.2.3"}
