"""Looks up the new addresses of a wave, for its check and for `banjia wave addresses`."""

from collections.abc import Iterable

from models.addresses import AddressStatus, Standing
from models.lifecycle import wave_members
from tasks.address_book import AddressBookClosed, address_book
from tasks.settings import SettingUnusable
from tasks.store import Store, log


def wave_addresses(kept: Store, wave: str) -> list[AddressStatus] | None:
    """What the address book says of each new address, in the roster's order; None when none is set."""
    emails = [member.email for member in wave_members(kept.engine, wave)]
    book = address_book(kept.settings, kept.vault.get_standing)
    if book is None:
        return None
    found = book.unknown_addresses(emails)
    return [found[email] for email in emails]


def note_addresses(kept: Store, emails: Iterable[str]) -> None:
    """Keep what is known of these addresses for the check that follows, which does not fail for want of it."""
    wanted = list(emails)
    kept.addresses.clear()
    try:
        book = address_book(kept.settings, kept.vault.get_standing)
        found = book.unknown_addresses(wanted) if book else {}
    except (AddressBookClosed, SettingUnusable) as closed:
        log.warning("addresses: %s", closed)
        told = kept.settings.spoken_language
        found = {email: AddressStatus(email, Standing.UNTOLD, said=closed.told.in_language(told)) for email in wanted}
    kept.addresses.update({email.casefold(): status for email, status in found.items()})
