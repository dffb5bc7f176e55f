"""Which addresses of the network are nobody's mail server, and which are within somebody's own network. Pure."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

# Where clouds tell the machine that asks its own keys, beside 169.254.0.0/16, which most use.
_METADATA = frozenset(
    map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
_TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 addresses as translators write them (RFC 6052)."""


def address_of(text: str) -> Address | None:
    """The address that a text is; None for a name. An IPv4 address written as IPv6 is the IPv4 address."""
    try:
        found = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return found
    if found in _TRANSLATED:
        return IPv4Address(int(found) & 0xFFFFFFFF)
    # Without a zone (`fe80::1%eth0`), which would make equal addresses differ.
    return found.ipv4_mapped or found.sixtofour or IPv6Address(int(found))


def is_no_servers(address: Address) -> bool:
    """Whether no mail server can be there: link-local (RFC 3927, RFC 4291), or what tells clouds' keys."""
    return address.is_link_local or address in _METADATA


def is_private(address: Address) -> bool:
    """Whether the address means somebody else in every network: loopback, RFC 1918, unique local and the like."""
    return not address.is_global
