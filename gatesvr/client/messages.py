"""What an application gets from its session: answers, notifies, and word of what was lost."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LostReason

__all__ = ["Answer", "Lost", "Notify"]


@dataclass(slots=True)
class Answer:
    """An upstream's answer to a request.

    Attributes:
        code: The upstream's own code, 200 where all went well.
        message: The upstream's text beside the code.
        data: The payload.
        headers: The upstream's headers.
        client_seq: The seq of the request that this answers.
        server_seq: The answer's place in the session's outgoing order.
    """

    code: int
    message: str
    data: bytes
    headers: dict[str, str]
    client_seq: int
    server_seq: int

    @property
    def is_ok(self) -> bool:
        """Whether the code is 200."""
        return self.code == 200


@dataclass(slots=True)
class Notify:
    """A message that an upstream pushed (PROTOCOL 7.6).

    Attributes:
        msg_type: What kind of message it is, in the upstream's own words.
        title: Its title.
        content: Its text.
        data: Its payload; the content where the upstream gave no data.
        headers: The upstream's metadata, and the three texts above.
        server_seq: Its place in the session's outgoing order.
    """

    msg_type: str
    title: str
    content: str
    data: bytes
    headers: dict[str, str]
    server_seq: int


@dataclass(slots=True)
class Lost:
    """Notifies that the gateway let go before they were delivered (PROTOCOL 2.6).

    Attributes:
        first_seq: The first server seq that is lost.
        last_seq: The last one.
        reason: Why.
    """

    first_seq: int
    last_seq: int
    reason: LostReason
