"""What our own Prefect server and its clients know each other by: a secret and a certificate in their folder.

The certificate comes first: whoever listens on the port is asked for it before a request leaves, so that the secret
goes to nobody but the holder of its key (docs/decisions/0022-prefects-doors.md).
"""

import hmac
import ipaddress
import secrets
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.private_files import make_private, read_private, write_private

HOST = "127.0.0.1"
LOGIN = "banjia"
SIGN_IN = "/sign-in"
_YEARS = 10
_RENEWED_BEFORE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Access:
    """The secret in Prefect's form, `login:password`, and where certificate and key lie."""

    secret: str = field(repr=False)
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For connections of ours: trusts this one certificate and nothing else."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_access(folder: Path) -> Access:
    """What is there, and what is missing made anew. Only for who holds the lock of the server."""
    make_private(folder)
    if not _secret_file(folder).exists():
        write_private(_secret_file(folder), f"{LOGIN}:{secrets.token_urlsafe(32)}\n".encode())
    if _ends_soon(folder):
        key, certificate = _new_certificate()
        write_private(_key_file(folder), key)
        write_private(_certificate_file(folder), certificate)
    return read_access(folder)


def read_access(folder: Path) -> Access:
    """What is there; FileNotFoundError when no server of ours was started yet, NotPrivate when others can read it."""
    secret = read_private(_secret_file(folder)).decode().strip()
    read_private(_key_file(folder))
    # Whoever could change the certificate would be the server.
    read_private(_certificate_file(folder))
    return Access(secret, _certificate_file(folder), _key_file(folder))


def new_pages_password(folder: Path) -> str:
    """A password for browsers, which ends with the server that made it; the one before is void."""
    password = secrets.token_urlsafe(32)
    write_private(folder / "pages_password", password.encode())
    return password


def pages_password(folder: Path) -> str:
    """The password for browsers of the server that was started last."""
    return read_private(folder / "pages_password").decode()


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def _secret_file(folder: Path) -> Path:
    return folder / "server_secret"


def _certificate_file(folder: Path) -> Path:
    return folder / "server_certificate.pem"


def _key_file(folder: Path) -> Path:
    return folder / "server_key.pem"


def _ends_soon(folder: Path) -> bool:
    try:
        found = x509.load_pem_x509_certificate(_certificate_file(folder).read_bytes())
    except (OSError, ValueError):
        return True
    return not _key_file(folder).exists() or found.not_valid_after_utc - _RENEWED_BEFORE < datetime.now(UTC)


def _new_certificate() -> tuple[bytes, bytes]:
    """Key and certificate of a server of this machine, both PEM; the certificate vouches for itself alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Prefect server of Banjia")])
    began = datetime.now(UTC) - timedelta(hours=1)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signs_handshakes(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def _signs_handshakes() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
