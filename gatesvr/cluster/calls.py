"""The calls that the processes of one gateway make of each other, by name and message types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from .._pb import cluster_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = [
    "FORWARD",
    "GIVE",
    "KICK",
    "LIFE",
    "PUSH",
    "REPLACED",
    "TAKE",
    "TAKEN",
    "Call",
]

Q = TypeVar("Q", bound="Message")
A = TypeVar("A", bound="Message")


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, A]):
    """A call.

    Attributes:
        name: On the wire.
        request: What it asks by.
        answer: What it is answered by; that of a hint has nothing in it.
    """

    name: str
    request: type[Q]
    answer: type[A]

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and other.name == self.name


TAKE = Call("Take", pb.TakeRequest, pb.TakeAnswer)
TAKEN = Call("Taken", pb.TakenRequest, pb.Nothing)
GIVE = Call("Give", pb.GiveRequest, pb.GiveAnswer)
FORWARD = Call("Forward", pb.ForwardRequest, pb.ForwardAnswer)
PUSH = Call("Push", pb.OwnedPushRequest, pb.OwnedPushAnswer)
KICK = Call("Kick", pb.OwnedKickRequest, pb.OwnedKickAnswer)
REPLACED = Call("Replaced", pb.ReplacedRequest, pb.Nothing)
LIFE = Call("Life", pb.LifeRequest, pb.LifeAnswer)
