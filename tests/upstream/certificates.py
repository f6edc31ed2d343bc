"""Certificates for upstreams and their callers, made for a test."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority", "Pair"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: str
    key: str


class Authority:
    """A CA that writes what it signs into a folder.

    Args:
        folder: The folder.
        name: Begins the files' names.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name, self._made = folder, name, 0
        self._ca = trustme.CA()
        self.path = str(folder / f"{name}.pem")
        self._ca.cert_pem.write_to_path(self.path)

    def sign(self, *names: str, days: int = 30) -> Pair:
        """Return a certificate for names; with negative days it has expired."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        begin = min(datetime.datetime.now(datetime.UTC), until) - datetime.timedelta(days=1)
        made = self._ca.issue_cert(*names, not_before=begin, not_after=until)
        self._made += 1
        pair = Pair(
            *(str(self._folder / f"{self._name}{self._made}.{end}") for end in ("crt", "key"))
        )
        made.private_key_pem.write_to_path(pair.key)
        with open(pair.cert, "wb") as file:
            for blob in made.cert_chain_pems:
                file.write(blob.bytes())
        return pair

    def server_context(
        self, pair: Pair, *, protocols: tuple[str, ...] = ("h2",), wants: bool = False
    ) -> ssl.SSLContext:
        """Return how a server speaks TLS.

        Args:
            pair: Its certificate.
            protocols: What it offers by ALPN.
            wants: Whether callers need a certificate that this CA signed.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if wants:
            context.load_verify_locations(self.path)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
