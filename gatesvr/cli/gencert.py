"""``gatesvr gencert``."""

from __future__ import annotations

import click

from ..errors import ConfigError
from .files import refuse_existing, write_file
from .terminal import echo, escape_control

__all__ = ["command"]


@click.command()
@click.option(
    "--cert",
    type=click.Path(dir_okay=False),
    default="cert.pem",
    show_default=True,
    help="File for the certificate.",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False),
    default="key.pem",
    show_default=True,
    help="File for the private key, readable only by its owner.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A DNS name or IP address that it covers; repeatable."
    "  [default: localhost, 127.0.0.1, ::1]",
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days it is valid."
)
@click.option("--force", is_flag=True, help="Replace existing files.")
def command(cert: str, key: str, names: tuple[str, ...], days: int, force: bool) -> None:
    """Write a self-signed certificate (ECDSA P-256) and its key.

    Serve it with `gatesvr serve --cert cert.pem --key key.pem`; clients trust it with
    `--ca cert.pem`. Without --name it covers this machine alone: for clients elsewhere, give each
    name and address that they connect to.
    """
    from ..transport.tls import DEVELOPMENT_NAMES, generate_certificate

    if cert == key:
        raise click.UsageError("--cert and --key must be different files")
    if not force:
        refuse_existing(cert, key)
    try:
        cert_pem, key_pem = generate_certificate(names or DEVELOPMENT_NAMES, days=days)
    except ValueError as error:
        raise ConfigError(str(error), field="--name") from None
    write_file(key, key_pem, 0o600)
    write_file(cert, cert_pem, 0o644)
    covered = ", ".join(names or DEVELOPMENT_NAMES)
    echo(f"certificate  {cert}\nkey          {key}\ncovers       {escape_control(covered)}")
    if not names:
        echo("for clients on other machines: --name, once for each name or address", err=True)
