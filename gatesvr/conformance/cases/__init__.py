"""The cases, by what they are about; importing this makes them known."""

from . import acks, ends, framing, heartbeats, order, requests, resume, start

__all__ = ["acks", "ends", "framing", "heartbeats", "order", "requests", "resume", "start"]
