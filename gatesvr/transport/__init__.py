"""QUIC connections: the listener, the client's side, the two backends."""

from .client import ClientConnection, open_connection
from .connection import Connection
from .counters import TransportCounters
from .listener import ConnectionListener
from .quic.interface import backends, pick_backend
from .tls import ClientTls, ServerTls, client_tls, generate_certificate, load_server_tls
from .udp.endpoint import Driver

__all__ = [
    "ClientConnection",
    "ClientTls",
    "Connection",
    "ConnectionListener",
    "Driver",
    "ServerTls",
    "TransportCounters",
    "backends",
    "client_tls",
    "generate_certificate",
    "load_server_tls",
    "open_connection",
    "pick_backend",
]
