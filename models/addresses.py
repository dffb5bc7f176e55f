"""What an address book says of a destination address, and what follows from it for a migration."""

from dataclasses import dataclass
from enum import StrEnum

from models.check import Finding, Severity


class Mailbox(StrEnum):
    """What an address is."""

    MEMBER = "member"
    MEMBER_ALIAS = "member_alias"
    PUBLIC = "public"
    PUBLIC_ALIAS = "public_alias"
    GROUP = "group"
    GROUP_ALIAS = "group_alias"
    NONE = "none"


class Standing(StrEnum):
    """Whether mail can be put there."""

    ENABLED = "enabled"
    INVALID = "invalid"
    NO_DOMAIN = "no_domain"
    MISSING = "missing"
    RECYCLED = "recycled"
    """Deleted, and still in the recycle bin: the address is not free, and takes no mail."""
    DISABLED = "disabled"
    UNTOLD = "untold"
    """The address book did not say; `AddressStatus.said` is why, where it gave a reason."""


@dataclass(frozen=True, slots=True)
class AddressStatus:
    """One address as the address book has it."""

    email: str
    standing: Standing
    mailbox: Mailbox = Mailbox.NONE
    said: str = ""

    @property
    def finding(self) -> Finding | None:
        """What an admin should know before the member is moved; None where the address can take the mail."""
        name = _BY_STANDING.get(self.standing) or _BY_MAILBOX.get(self.mailbox)
        if name is None:
            return None
        return Finding(name, _SEVERITY.get(name, Severity.BLOCKS), "target", {}, self.said)


_BY_STANDING = {
    Standing.INVALID: "address_missing",
    Standing.NO_DOMAIN: "address_no_domain",
    Standing.MISSING: "address_missing",
    Standing.RECYCLED: "address_recycled",
    Standing.DISABLED: "address_disabled",
    Standing.UNTOLD: "address_untold",
}
# A public mailbox can be moved into: it has a password of its own.
_BY_MAILBOX = {
    Mailbox.MEMBER_ALIAS: "address_alias",
    Mailbox.PUBLIC: "address_public",
    Mailbox.PUBLIC_ALIAS: "address_alias",
    Mailbox.GROUP: "address_group",
    Mailbox.GROUP_ALIAS: "address_group",
}
_SEVERITY = {"address_public": Severity.TELLS, "address_untold": Severity.WARNS}
