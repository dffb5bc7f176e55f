"""Chromium as the admin's browser: headless, with a profile that it keeps from one page to the next."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers.dovecot import INSTALL

LONGEST = 240.0


class Chromium:
    """A browser that remembers in `profile` what pages stored."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.fail(f"chromium is not installed: {INSTALL}", pytrace=False)
        # No sandbox: there is none for root, and what is visited is our own. No proxy, no service of the vendor's.
        self._command = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"),
            *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
            f"--user-data-dir={profile}",
        ]

    def text_of(self, address: str, picture: Path) -> str:
        """What a page shows when its scripts have come to rest, as HTML; and a picture of it."""
        options = ["--virtual-time-budget=60000", "--window-size=1200,900", "--dump-dom", f"--screenshot={picture}"]
        shown = subprocess.run(
            [*self._command, *options, address], capture_output=True, text=True, timeout=LONGEST, check=True
        )
        return shown.stdout

    def open(self, address: str) -> "subprocess.Popen[bytes]":
        """Visit a page and stay there; for a `with` whose end kills the browser."""
        return subprocess.Popen(
            [*self._command, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
