"""The asyncio client."""

from .client import Client
from .counters import ClientCounters
from .messages import Answer, Lost, Notify

__all__ = ["Answer", "Client", "ClientCounters", "Lost", "Notify"]
