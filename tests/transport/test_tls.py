"""Certificates: the development one, files that cannot be used, what a client accepts."""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gatesvr.config import TransportConfig
from gatesvr.errors import ConfigError, ConnectionFailed
from gatesvr.transport import listener, tls
from gatesvr.transport.addresses import is_loopback
from gatesvr.transport.client import open_connection
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.tls import (
    CertificateFiles,
    ClientTls,
    client_tls,
    development_path,
    generate_certificate,
    load_server_tls,
)

from .harness import BACKENDS, PAIRS, Recorder, serving


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_the_development_certificate(home: Path) -> None:
    made = load_server_tls()
    assert made.is_development
    assert made.path == str(home / "gatesvr" / "development.pem")
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(home / "gatesvr").st_mode) == 0o700
    assert load_server_tls() == made
    assert sorted(p.name for p in (home / "gatesvr").iterdir()) == [
        "development.lock",
        "development.pem",
    ]
    leaf = x509.load_pem_x509_certificate(made.cert_pem)
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    left = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(12) < left < datetime.timedelta(14)
    assert (
        made.web_hash() == hashlib.sha256(ssl.PEM_cert_to_DER_cert(made.cert_pem.decode())).digest()
    )
    assert b"PRIVATE" not in made.cert_pem
    assert b"PRIVATE" not in client_tls("localhost").ca_pem
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize(
    "old",
    [
        b"",
        b"rubbish",
        b"".join(generate_certificate(days=4)),
        b"".join(generate_certificate()),
        b"".join(generate_certificate(["localhost"], days=13)),
        generate_certificate(days=13)[0] + generate_certificate(days=13)[1],
        generate_certificate(days=13)[0],
    ],
    ids=["empty", "rubbish", "near its end", "too long", "other names", "another's key", "no key"],
)
def test_the_development_certificate_is_renewed(home: Path, old: bytes) -> None:
    path = development_path()
    assert path is not None
    path.parent.mkdir()
    path.write_bytes(old)
    made = load_server_tls()
    assert old not in (path.read_bytes(), made.cert_pem + made.key_pem)
    assert load_server_tls() == made


def test_a_shown_development_certificate_is_renewed_in_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CertificateFiles(TransportConfig())
    shown = load_server_tls()
    assert not files.have_changed(shown)
    monkeypatch.setattr(tls, "RENEW_DAYS", 13.5)
    files = CertificateFiles(TransportConfig())
    assert files.have_changed(shown)
    renewed = load_server_tls()
    assert renewed != shown
    monkeypatch.setattr(tls, "RENEW_DAYS", 4)
    assert not files.have_changed(renewed)


def test_another_gateway_renews_the_development_certificate(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "SETTLE_S", -1.0)
    shown = load_server_tls()
    files = CertificateFiles(TransportConfig())
    assert not files.have_changed(shown)
    Path(shown.path).unlink()
    renewed = load_server_tls()
    assert files.have_changed(shown)
    assert not files.have_changed(renewed)
    # One in memory has no file to look at.
    Path(shown.path).unlink()
    assert not files.have_changed(tls.ServerTls(shown.cert_pem, shown.key_pem, "", True))


def test_certificates_that_no_browser_takes_by_their_hash() -> None:
    cert, key = generate_certificate(days=15)
    assert tls.ServerTls(cert, key, "").web_hash() == b""
    cert, key = _certificate(rsa.generate_private_key(65537, 2048), days=(-1, 9))
    assert tls.ServerTls(cert, key, "").web_hash() == b""


def test_a_state_folder_that_cannot_be_used(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "gatesvr").write_text("in the way")
    made = load_server_tls()
    assert (made.path, made.is_development) == ("", True)
    assert b"PRIVATE" in made.key_pem
    assert [record.message for record in caplog.records] == ["certificate_in_memory"]
    assert "development.pem: " in caplog.records[0].keys["why"]  # type: ignore[attr-defined]
    assert client_tls("localhost").ca_pem == b""


def test_a_state_folder_that_can_only_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load_server_tls()

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tls.os, "open", refuse)
    assert load_server_tls() == kept


def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(tls.Path, "home", no_home)
    assert development_path() is None
    assert load_server_tls().path == ""
    assert caplog.records[0].keys == {"why": "the user has no home"}  # type: ignore[attr-defined]
    assert client_tls("localhost").ca_pem == b""


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".local" / "state" / "gatesvr" / "development.pem"
    for relative in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", relative)
        assert development_path() == expected


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    cert, key = generate_certificate()
    _, other_key = generate_certificate()
    private = serialization.load_pem_private_key(key, None)
    encrypted = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    expired, expired_key = _of_year(2020)
    files = {
        "cert": cert,
        "key": key,
        "other": other_key,
        "encrypted": encrypted,
        "rubbish": b"rubbish",
        "expired": expired,
        "expired_key": expired_key,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def refused(cert: str, key: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_server_tls(str(tmp_path / cert), str(tmp_path / key))
        return str(caught.value)

    assert refused("none", "key") == f"{tmp_path}/none: transport.cert: No such file or directory"
    assert refused("cert", "none") == f"{tmp_path}/none: transport.key: No such file or directory"
    assert f"{tmp_path}/rubbish: transport.cert: no usable certificate" in refused("rubbish", "key")
    assert f"{tmp_path}/rubbish: transport.key: no usable private key" in refused("cert", "rubbish")
    assert f"{tmp_path}/other: transport.key: this is not the key" in refused("cert", "other")
    assert f"{tmp_path}/encrypted: transport.key: the key is encrypted" == refused(
        "cert", "encrypted"
    )
    (tmp_path / "disordered").write_bytes(cert + generate_certificate()[0])
    assert refused("disordered", "key") == (
        f"{tmp_path}/disordered: transport.cert: the chain is out of order: certificate 1 was not"
        " issued by the one behind it"
    )
    early, early_key = _of_year(2999)
    (tmp_path / "early").write_bytes(early)
    (tmp_path / "early_key").write_bytes(early_key)
    assert "early: transport.cert: the certificate is valid from" in refused("early", "early_key")
    assert "expired: transport.cert: the certificate expired on" in refused(
        "expired", "expired_key"
    )


def _of_year(year: int) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    begin = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
        .sign(key, tls.hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
async def test_files_of_the_users_own(
    tmp_path: Path, backend: str, form: serialization.PrivateFormat
) -> None:
    cert, key = generate_certificate(["gate.example", "127.0.0.1"])
    private = serialization.load_pem_private_key(key, None)
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(
        private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )
    files = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    async with serving(backend, **files) as gateway:
        assert not gateway.listener.tls.is_development
        for client in BACKENDS:
            trusted = client_tls("127.0.0.1", ca=files["cert"])
            _, connection = await gateway.connect(client, tls=trusted)
            await connection.close()


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_what_a_client_accepts(client: str, server: str) -> None:
    strange, _ = generate_certificate()
    async with serving(server) as gateway:
        with pytest.raises(ConnectionFailed, match=r"certificate of 127\.0\.0\.1 .* not accepted"):
            await gateway.connect(client, tls=ClientTls(strange, source="strange.pem"))
        with pytest.raises(ConnectionFailed, match="trusting the system's CAs"):
            await gateway.connect(client, tls=ClientTls(source="the system's CAs"))
        counters = gateway.listener.counters
        await gateway.until(lambda: counters.handshakes_failed == 2)
        assert counters.connections == 0
        _, connection = await gateway.connect(client, tls=client_tls("x", insecure=True))
        await connection.close()
        made = Recorder
        _, port = gateway.listener.address
        connection = await open_connection("localhost", port, made, backend=client)
        await connection.close()


@pytest.mark.parametrize("client", BACKENDS)
async def test_a_name_that_is_not_the_servers(client: str, tmp_path: Path) -> None:
    cert, key = generate_certificate(["gate.example"])
    (tmp_path / "pair.pem").write_bytes(cert + key)
    path = str(tmp_path / "pair.pem")
    async with serving("aioquic", cert=path, key=path) as gateway:
        with pytest.raises(ConnectionFailed, match="not accepted"):
            await gateway.connect(client, tls=client_tls("127.0.0.1", ca=path))


@pytest.mark.parametrize("client", BACKENDS)
async def test_nobody_listens(client: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"no answer from 127.0.0.1 port {port}"):
            await open_connection("127.0.0.1", port, Recorder, backend=client, connect_timeout=0.2)
    with pytest.raises(ConnectionFailed, match=f"nobody listens on UDP 127.0.0.1 port {port}"):
        await open_connection("127.0.0.1", port, Recorder, backend=client)
    with pytest.raises(ConnectionFailed, match=r"cannot reach no\.such\.host\.invalid"):
        await open_connection("no.such.host.invalid", port, Recorder, backend=client)


def test_what_is_accepted_by_default(home: Path, tmp_path: Path) -> None:
    assert client_tls("localhost").ca_pem == b""
    made = load_server_tls()
    for host in ("localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "::1"):
        assert is_loopback(host)
        assert client_tls(host) == ClientTls(made.cert_pem, source=made.path)
    for host in ("gate.example", "192.0.2.1", "localhost.example"):
        assert not is_loopback(host)
        assert client_tls(host) == ClientTls(source="the system's CAs")
    with pytest.raises(ConfigError, match="none: ca: No such file"):
        client_tls("localhost", ca=str(tmp_path / "none"))
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match="rubbish: ca: no usable certificate"):
        client_tls("localhost", ca=str(tmp_path / "rubbish"))


class Authority:
    """Makes certificates of every kind."""

    def __init__(self, above: Authority | None = None, *, is_ca: bool = True) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = "authority" if above is None else "below"
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer = above or self
        self.pem, _ = _certificate(
            self.key, self.name, issuer=signer.name, issuer_key=signer.key, is_ca=is_ca, names=()
        )

    def sign(self, **fields: Any) -> tuple[bytes, bytes]:
        """Return a certificate signed by the authority, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _certificate(key, issuer=self.name, issuer_key=self.key, **fields)


def _certificate(
    key: Any,
    subject: x509.Name | None = None,
    *,
    issuer: x509.Name | None = None,
    issuer_key: Any = None,
    is_ca: bool | None = None,
    names: tuple[str, ...] = ("127.0.0.1",),
    usage: Any = None,
    days: tuple[int, int] = (-1, 30),
) -> tuple[bytes, bytes]:
    subject = subject or x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
    )
    if names:
        san = x509.SubjectAlternativeName([tls._name(name) for name in names])
        builder = builder.add_extension(san, critical=False)
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signer = issuer_key or key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else tls.hashes.SHA256()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return builder.sign(signer, digest).public_bytes(serialization.Encoding.PEM), private


def _kinds(kind: str) -> tuple[bytes, bytes, bytes]:
    """Return a server's certificates, their key, and what its client trusts."""
    elliptic, authority = ec.generate_private_key(ec.SECP256R1()), Authority()
    usages = x509.ExtendedKeyUsageOID
    if kind == "openssl req -x509":
        cert, key = _certificate(rsa.generate_private_key(65537, 2048), is_ca=True)
    elif kind == "openssl req -x509, elliptic":
        cert, key = _certificate(elliptic, is_ca=True)
    elif kind == "Ed25519":
        cert, key = _certificate(ed25519.Ed25519PrivateKey.generate())
    elif kind == "Ed25519 CA":
        cert, key = _certificate(ed25519.Ed25519PrivateKey.generate(), is_ca=True)
    elif kind == "anchor for servers":
        cert, key = _certificate(elliptic, usage=usages.SERVER_AUTH)
    elif kind == "no name":
        cert, key = _certificate(elliptic, is_ca=True, names=())
    elif kind == "another's name":
        cert, key = _certificate(elliptic, is_ca=True, names=("gate.example",))
    elif kind == "expired":
        cert, key = _certificate(elliptic, is_ca=True, days=(-9, -1))
    elif kind == "not valid yet":
        cert, key = _certificate(elliptic, is_ca=True, days=(1, 9))
    elif kind == "anchor for clients":
        cert, key = _certificate(elliptic, usage=usages.CLIENT_AUTH)
    else:
        fields: dict[str, Any] = {
            "signed for clients": {"usage": usages.CLIENT_AUTH},
            "signed, expired": {"days": (-9, -1)},
        }.get(kind, {})
        if kind in ("by one below", "by no authority"):
            below = Authority(authority, is_ca=kind == "by one below")
            cert, key = below.sign()
            return cert + below.pem, key, authority.pem
        cert, key = authority.sign(**fields)
        # The same name, another key.
        return cert, key, Authority().pem if kind == "by another authority" else authority.pem
    return cert, key, cert


@pytest.mark.parametrize("client", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("openssl req -x509", ""),
        ("openssl req -x509, elliptic", ""),
        ("Ed25519", ""),
        ("Ed25519 CA", ""),
        ("anchor for servers", ""),
        ("signed", ""),
        ("by one below", ""),
        ("no name", "subjectAltName"),
        ("another's name", "'127.0.0.1' doesn't match"),
        ("expired", "no longer valid"),
        ("signed, expired", "no longer valid"),
        ("not valid yet", "not valid yet"),
        ("by no authority", "invalid CA certificate"),
        ("by another authority", "signature failure|unable to get local issuer"),
    ],
)
async def test_kinds_of_certificates(
    client: str, kind: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both libraries accept the same ones, and say the same of the others."""
    cert, key, trusted = _kinds(kind)
    shown = tls.ServerTls(cert, key, "some.pem")
    monkeypatch.setattr(listener, "load_server_tls", lambda *_: shown)
    async with serving("aioquic") as gateway:
        if not why:
            _, connection = await gateway.connect(client, tls=ClientTls(trusted))
            await connection.close()
            return
        with pytest.raises(ConnectionFailed, match=f"not accepted.*({why})"):
            await gateway.connect(client, tls=ClientTls(trusted))


@pytest.mark.parametrize("kind", ["anchor for clients", "signed for clients"])
async def test_a_certificate_that_is_not_for_servers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What qh3 refuses for a reason is not let in by aioquic, which has no such rule."""
    cert, key, trusted = _kinds(kind)
    shown = tls.ServerTls(cert, key, "some.pem")
    monkeypatch.setattr(listener, "load_server_tls", lambda *_: shown)
    async with serving("aioquic") as gateway:
        with pytest.raises(ConnectionFailed, match="not for a server"):
            await gateway.connect("qh3", tls=ClientTls(trusted))


async def test_a_server_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good certificate, shown by one who does not have the private key."""
    cert, _, trusted = _kinds("openssl req -x509, elliptic")
    _, key = generate_certificate()
    monkeypatch.setattr(listener, "load_server_tls", lambda *_: tls.ServerTls(cert, key, "s.pem"))
    async with serving("aioquic") as gateway:
        with pytest.raises(ConnectionFailed, match=r"not accepted|closed the handshake"):
            await gateway.connect("qh3", tls=ClientTls(trusted))


def test_a_listener_names_the_file(tmp_path: Path) -> None:
    config = TransportConfig(cert=str(tmp_path / "c"), key=str(tmp_path / "k"))
    with pytest.raises(ConfigError, match=r"c: transport\.cert: No such file"):
        ConnectionListener(config, Recorder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_that_a_library_cannot_use(backend: str) -> None:
    cert, key = generate_certificate()
    rubbish = tls.ServerTls(cert, key.replace(b"M", b"N", 2), "some.pem")
    with pytest.raises(ConfigError, match=r"some\.pem: transport\.cert: .*cannot use it"):
        pick_backend(backend).server(rubbish, 60.0, bytes)
