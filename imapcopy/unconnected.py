"""What a server shows of itself that could not be talked to: names in its certificate, its protocol, its TLS versions.

It is looked at once for each server in a process, over a connection of its own on which nothing is ever sent but a
TLS handshake: no user name, no password, no command.
"""

import contextlib
import difflib
import re
import ssl
import warnings
from functools import lru_cache

from imapcopy.account import Server
from imapcopy.reach import reach
from models.hints import Hint
from models.providers import providers

LOOK_SECONDS = 3.0
"""A banner comes at once or not at all."""
LIKELY = 0.8
"""So alike are a mistyped name and the right one (difflib)."""
_PROTOCOLS = (
    ("POP3", re.compile(rb"\+OK|-ERR")),
    ("SMTP", re.compile(rb"220[ -]|554[ -]|421[ -]")),
    ("HTTP", re.compile(rb"HTTP/|<!doctype|<html", re.IGNORECASE)),
    ("SSH", re.compile(rb"SSH-")),
    ("IMAP", re.compile(rb"\* (OK|BYE|PREAUTH)", re.IGNORECASE)),
)
_PORTS = {25: "SMTP", 465: "SMTP", 587: "SMTP", 110: "POP3", 995: "POP3", 80: "HTTP", 443: "HTTP", 22: "SSH"}
_OLD_VERSIONS = ((ssl.TLSVersion.TLSv1, "TLS 1.0"), (ssl.TLSVersion.TLSv1_1, "TLS 1.1"))
# What `ssl` gives as verify_code, from OpenSSL's x509_vfy.h.
_EXPIRED, _EARLY, _SELF_SIGNED, _UNKNOWN = {10}, {9}, {18, 19}, {2, 20, 21}
_OTHER_NAME = {62, 64}


def hint_of(cause: str, error: Exception, text: str, server: Server) -> Hint | None:
    """What probably lies behind a connection that came to nothing; None where nothing can be told."""
    match cause:
        case "tls_cert" if isinstance(error, ssl.SSLCertVerificationError):
            return _of_certificate(error.verify_code, server)
        case "dns_error":
            return near_host(server.host)
        case "wrong_port" | "connect_failed" | "timeout":
            return _of_port(text, server)
        case "tls_protocol" if isinstance(error, ssl.SSLError):
            offered = old_versions(server.host, server.port, server.private_allowed)
            return Hint("tls_versions", {"offered": offered}) if offered else None
    return None


def _of_certificate(code: int, server: Server) -> Hint | None:
    if code in _OTHER_NAME:
        starttls, own = server.security == "starttls", server.private_allowed
        names = certificate_names(server.host, server.port, str(server.ca_file or ""), starttls, own)
        if names:
            return Hint("certificate_names", {"names": names, "host": server.host})
        return Hint("certificate_other_names" if names is None else "certificate_without_names", {"host": server.host})
    for codes, kind in (
        (_EXPIRED, "certificate_expired"),
        (_EARLY, "certificate_early"),
        (_SELF_SIGNED, "certificate_self_signed"),
        (_UNKNOWN, "certificate_unknown_issuer"),
    ):
        if code in codes:
            return Hint(kind)
    return None


def near_host(host: str) -> Hint | None:
    """The server of a known provider whose name is nearly this one."""
    known = {each.host for row in providers() for each in row.imap if "*" not in each.host}
    wanted = host.casefold().rstrip(".")
    if wanted in known:
        return None
    for near in difflib.get_close_matches(wanted, known, 1, LIKELY):
        return Hint("near_host", {"host": host, "near": near})
    return None


def _of_port(text: str, server: Server) -> Hint | None:
    port = str(server.port)
    if server.security != "tls" and server.port == 993:
        return Hint("tls_on_port", {"port": port})
    protocol = protocol_of(text.encode("utf-8", "replace"))
    if not protocol and (server.security == "tls" or server.port in _PORTS):
        protocol = protocol_of(banner(server.host, server.port, server.private_allowed)) or _PORTS.get(server.port, "")
    if protocol == "IMAP":
        return Hint("no_tls_on_port", {"port": port}) if server.security == "tls" else None
    right = "993" if server.security == "tls" else "143"
    return Hint("other_protocol", {"port": port, "protocol": protocol, "right": right}) if protocol else None


def protocol_of(banner: bytes) -> str:
    """Whose greeting that is; "" where it is nobody's."""
    return next((name for name, pattern in _PROTOCOLS if pattern.match(banner.lstrip())), "")


@lru_cache(maxsize=256)
def banner(host: str, port: int, private_too: bool = True) -> bytes:
    """The first octets that a server says by itself, in clear text; b"" where it says nothing."""
    with contextlib.suppress(OSError, UnicodeError), reach(host, port, LOOK_SECONDS, private_too=private_too) as plain:
        plain.settimeout(LOOK_SECONDS)
        return plain.recv(200)
    return b""


@lru_cache(maxsize=256)
def certificate_names(
    host: str, port: int, ca_file: str, starttls: bool, private_too: bool = True
) -> tuple[str, ...] | None:
    """The names in a certificate that is trusted and for somebody else; None where it cannot be seen."""
    if starttls:
        return None
    context = ssl.create_default_context()
    # Whose it is, is what is asked. Whether it is to be trusted, is still seen to.
    context.check_hostname = False
    if ca_file:
        context.load_verify_locations(ca_file)
    with (
        contextlib.suppress(OSError, UnicodeError, ValueError),
        reach(host, port, LOOK_SECONDS, private_too=private_too) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        shown = wrapped.getpeercert() or {}
        names = shown.get("subjectAltName", ())
        return tuple(str(each[1]) for each in names if len(each) > 1 and each[0] in {"DNS", "IP Address"})
    return None


@lru_cache(maxsize=256)
def old_versions(host: str, port: int, private_too: bool = True) -> tuple[str, ...]:
    """The TLS versions that a server offers and nobody should use any more."""
    found = []
    for version, name in _OLD_VERSIONS:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Only the handshake is of interest: nothing is sent over it, so it does not matter who answers.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            contextlib.suppress(OSError, UnicodeError, ValueError),
            reach(host, port, LOOK_SECONDS, private_too=private_too) as plain,
        ):
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                # That they are old is the point.
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            with context.wrap_socket(plain, server_hostname=host):
                found.append(name)
    return tuple(found)
