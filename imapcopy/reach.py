"""Connects to a host by the addresses that its name has, and to none where no mail server may be."""

import socket
import time

from models.host_addresses import address_of, is_no_servers, is_private

ADDRESSES_IN_VAIN = 3
"""All addresses of a host together get so many times as long as one."""


class AddressRefused(OSError):
    """A host has no other addresses than such as nobody connects to; the text names one."""


def reach(host: str, port: int, seconds: float, *, private_too: bool = True) -> socket.socket:
    """A connection to the first address of a host that takes it; a name often has one that leads nowhere.

    What is connected to is the very address that was looked at: a name may mean another one a moment later.
    """
    end = time.monotonic() + ADDRESSES_IN_VAIN * seconds
    failure: OSError | None = None
    refused = ""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        if _is_refused(str(address[0]), private_too=private_too):
            refused = refused or str(address[0])
            continue
        if (left := min(seconds, end - time.monotonic())) <= 0:
            break
        try:
            connected = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            connected.settimeout(left)
            connected.connect(address)
        except OSError as error:
            connected.close()
            failure = error
        else:
            return connected
    if failure is None and refused:
        raise AddressRefused(refused)
    raise failure or OSError("the host has no address")


def _is_refused(text: str, *, private_too: bool) -> bool:
    address = address_of(text)
    if address is None:
        return False
    return is_no_servers(address) or (is_private(address) and not private_too)
