"""Access tokens that a demo server takes: their lives are counted in commands, so that no test waits for a clock."""

import secrets
import threading
from dataclasses import dataclass


@dataclass
class _Life:
    account: str
    left: int | None


class TokenBook:
    """What an authorization server issued and the mail server honours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: dict[str, _Life] = {}

    def issue(self, account: str = "", commands: int | None = None) -> str:
        """A token for an account, or for every one; it ends after so many commands of all its sessions together."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        with self._lock:
            self._lives[token] = _Life(account, commands)
        return token

    def issued(self) -> list[str]:
        """Every token, the oldest first."""
        with self._lock:
            return [*self._lives]

    def opens(self, token: str, account: str) -> bool:
        """Whether a session of this account may begin."""
        with self._lock:
            life = self._lives.get(token)
            return life is not None and life.account in ("", account) and life.left != 0

    def spend(self, token: str) -> bool:
        """Count a command; False when the token has ended before it."""
        with self._lock:
            life = self._lives.get(token)
            if life is None or life.left == 0:
                return False
            if life.left is not None:
                life.left -= 1
            return True

    def end(self, token: str) -> None:
        """End a token now."""
        with self._lock:
            self._lives[token].left = 0
