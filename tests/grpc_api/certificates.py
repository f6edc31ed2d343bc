"""Certificates for the tests: CAs, and what they sign."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import GeneralName

DAY = datetime.timedelta(days=1)


@dataclass
class Signed:
    """A certificate and its key, in files; it signs others where it is a CA's."""

    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey
    cert: str
    key: str

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def make(
    folder: Path,
    name: str,
    issuer: Signed | None = None,
    *,
    common_name: str = "",
    dns: str = "",
    uri: str = "",
    days: int = 2,
) -> Signed:
    """Make a certificate: a CA's without an issuer, else one for localhost and a caller's names."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[GeneralName] = []
    if name == "server":
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    names += [x509.DNSName(dns)] if dns else []
    names += [x509.UniformResourceIdentifier(uri)] if uri else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * DAY)
        .not_valid_after(now + days * DAY)
    )
    if issuer is None:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer.private if issuer else private, hashes.SHA256())
    signed = Signed(
        certificate, private, str(folder / f"{name}.pem"), str(folder / f"{name}.key.pem")
    )
    (folder / f"{name}.pem").write_bytes(signed.cert_pem)
    (folder / f"{name}.key.pem").write_bytes(signed.key_pem)
    return signed
