"""Certificates for the test servers: a private authority, what it signs, and one that nobody should accept."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Certificate:
    """A server's certificate and its key, both PEM."""

    chain: bytes
    key: bytes


class Authority:
    """A private certificate authority, known to nobody who was not given `root`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name("Test authority")
        certificate = (
            _start(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            # Python 3.13 verifies strictly: an authority must say what its key is for.
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._certificate = certificate
        self.root = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, valid: timedelta = timedelta(days=2)) -> Certificate:
        """Sign a server certificate for host names or addresses (default: loopback); a negative `valid` is expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _server(_common_name("Signed test server"), self._name, key, names or LOOPBACK, valid)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Certificate(certificate.public_bytes(serialization.Encoding.PEM), _private(key))

    def issue_without_names(self, common_name: str) -> Certificate:
        """Sign a server certificate of the old kind, that has its host's name as CN and nowhere else."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _start(_common_name(common_name), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Certificate(certificate.public_bytes(serialization.Encoding.PEM), _private(key))


def self_signed(*names: str, valid: timedelta = timedelta(days=2)) -> Certificate:
    """Make a server certificate that only its own key vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name("Self-signed test server")
    certificate = _server(name, name, key, names or LOOPBACK, valid).sign(key, hashes.SHA256())
    return Certificate(certificate.public_bytes(serialization.Encoding.PEM), _private(key))


def _server(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], valid: timedelta
) -> x509.CertificateBuilder:
    return (
        _start(subject, issuer, key.public_key(), valid)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
    )


def _start(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta = timedelta(days=2)
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    # A day before now, or before its end, so that clocks that disagree do not matter.
    begin = min(now, now + valid) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + valid)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
