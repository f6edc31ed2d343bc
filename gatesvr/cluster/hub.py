"""The hub: a Directory for the processes of one machine, held by their supervisor.

HubServer answers for the table; HubDirectory asks it, over the links between the processes.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeVar

from .._pb import hub_pb2 as pb
from ..errors import LostReason
from .calls import Call
from .directory import DirectoryUnreachableError
from .entries import Again, Busy, Done, Entry, Found, Node, Renewal, Tombstone
from .peers import PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    from .entries import Entries
    from .peers import Handlers, Peers

__all__ = ["HUB", "HubDirectory", "HubServer"]

HUB = "hub"
"""The node id of the process that holds the table."""
WITHIN_S = 2.0
"""How long a call waits for the hub."""
SWEEP_S = 1.0

Q = TypeVar("Q", bound="Message")
A = TypeVar("A", bound="Message")

JOIN = Call("Hub.Join", pb.HubJoinRequest, pb.HubNothing)
LEAVE = Call("Hub.Leave", pb.HubNodeRequest, pb.HubEntries)
NODES = Call("Hub.Nodes", pb.HubNothing, pb.HubNodes)
IS_LEASED = Call("Hub.IsLeased", pb.HubNodeRequest, pb.HubYes)
RENEW = Call("Hub.Renew", pb.HubRenewRequest, pb.HubRenewAnswer)
READ = Call("Hub.Read", pb.HubReadRequest, pb.HubRecord)
CREATE = Call("Hub.Create", pb.HubCreateRequest, pb.HubRecord)
MOVE = Call("Hub.Move", pb.HubMoveRequest, pb.HubRecord)
REMOVE = Call("Hub.Remove", pb.HubRemoveRequest, pb.HubYes)
BURY = Call("Hub.Bury", pb.HubOwned, pb.HubYes)
FIND = Call("Hub.Find", pb.HubFindRequest, pb.HubFound)
FIND_ALL = Call("Hub.FindAll", pb.HubFindAllRequest, pb.HubFoundAll)
LOGIN = Call("Hub.Login", pb.HubLoginRequest, pb.HubLogin)


class HubServer:
    """Serves a table to the processes of a machine.

    Args:
        entries: The table. Its holder may use it, too, by the same clock: the loop's.
    """

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Forget what is past its time from now on, until stop()."""
        self._timer = self._loop.call_later(SWEEP_S, self.start)
        self._entries.sweep(self._clock())

    def stop(self) -> None:
        """End what start() began."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handlers(self) -> Handlers:
        """Return what serves each call."""
        return {
            JOIN: self._join,
            LEAVE: self._leave,
            NODES: self._nodes,
            IS_LEASED: self._is_leased,
            RENEW: self._renew,
            READ: self._read,
            CREATE: self._create,
            MOVE: self._move,
            REMOVE: self._remove,
            BURY: self._bury,
            FIND: self._find,
            FIND_ALL: self._find_all,
            LOGIN: self._login,
        }

    def _join(self, request: pb.HubJoinRequest, _: float) -> pb.HubNothing:
        self._entries.join(request.node_id, request.address, self._clock())
        return pb.HubNothing()

    def _leave(self, request: pb.HubNodeRequest, _: float) -> pb.HubEntries:
        left = self._entries.leave(request.node_id, self._clock())
        return pb.HubEntries(entries=map(_entry_pb, left))

    def _nodes(self, _request: pb.HubNothing, _: float) -> pb.HubNodes:
        return pb.HubNodes(
            nodes=[
                pb.HubNode(node_id=node.node_id, address=node.address, is_leased=node.leased)
                for node in self._entries.nodes(self._clock())
            ]
        )

    def _is_leased(self, request: pb.HubNodeRequest, _: float) -> pb.HubYes:
        return pb.HubYes(is_so=self._entries.is_leased(request.node_id, self._clock()))

    def _renew(self, request: pb.HubRenewRequest, _: float) -> pb.HubRenewAnswer:
        renewal = self._entries.renew_named(
            request.node_id,
            request.number,
            request.base,
            dict(zip(request.session_ids, request.epochs, strict=True)),
            request.ended,
            self._clock(),
        )
        if renewal is None:
            return pb.HubRenewAnswer()
        if isinstance(renewal, Again):
            return pb.HubRenewAnswer(is_known=True, needs_all=True)
        return pb.HubRenewAnswer(
            is_known=True,
            changed=renewal.changed,
            records=map(_record_pb, renewal.changed.values()),
            unnamed=map(_entry_pb, renewal.unnamed),
        )

    def _read(self, request: pb.HubReadRequest, _: float) -> pb.HubRecord:
        return _record_pb(self._entries.read(request.session_id, self._clock()))

    def _create(self, request: pb.HubCreateRequest, _: float) -> pb.HubRecord:
        return _record_pb(
            self._entries.create(request.session_id, request.owner, request.openid, self._clock())
        )

    def _move(self, request: pb.HubMoveRequest, _: float) -> pb.HubRecord:
        owned = request.owned
        return _record_pb(
            self._entries.move(
                owned.session_id, owned.owner, owned.epoch, request.to, self._clock()
            )
        )

    def _remove(self, request: pb.HubRemoveRequest, _: float) -> pb.HubYes:
        owned = request.owned
        reason = LostReason(request.tombstone) if request.HasField("tombstone") else None
        return pb.HubYes(
            is_so=self._entries.remove(
                owned.session_id, owned.owner, owned.epoch, reason, self._clock()
            )
        )

    def _bury(self, request: pb.HubOwned, _: float) -> pb.HubYes:
        return pb.HubYes(
            is_so=self._entries.bury(
                request.session_id, request.owner, request.epoch, self._clock()
            )
        )

    def _find(self, request: pb.HubFindRequest, _: float) -> pb.HubFound:
        return _found_pb(self._entries.find(request.openid, self._clock()))

    def _find_all(self, request: pb.HubFindAllRequest, _: float) -> pb.HubFoundAll:
        find, now = self._entries.find, self._clock()
        return pb.HubFoundAll(found=[_found_pb(find(openid, now)) for openid in request.openids])

    def _login(self, request: pb.HubLoginRequest, _: float) -> pb.HubLogin:
        owned = request.owned
        login: Done | Busy | Again | None
        if request.HasField("version"):
            login = self._entries.login_judged(
                owned.session_id,
                owned.owner,
                owned.epoch,
                version=request.version,
                victims=request.victims,
                now=self._clock(),
            )
        else:
            login = self._entries.login_replacing(
                owned.session_id,
                owned.owner,
                owned.epoch,
                after_failed_resume=request.is_after_failed_resume,
                now=self._clock(),
            )
        match login:
            case None:
                return pb.HubLogin(result=pb.HubLogin.LOST)
            case Busy():
                return pb.HubLogin(result=pb.HubLogin.BUSY)
            case Again():
                return pb.HubLogin(result=pb.HubLogin.AGAIN)
        return pb.HubLogin(result=pb.HubLogin.DONE, replaced=map(_entry_pb, login.replaced))


class HubDirectory:
    """The Directory that a hub holds.

    A renewal names what has changed since the one before: 10,000 sessions that stay as they are
    cost the hub nothing.

    Args:
        peers: Reaches the hub by the node id HUB.
        within: Seconds to wait for an answer.
    """

    def __init__(self, peers: Peers, *, within: float = WITHIN_S) -> None:
        self._peers = peers
        self._within = within
        # Not the numbers of another object that renews for the same node.
        self._renewals = int.from_bytes(os.urandom(6))
        self._base = 0  # the last renewal that was answered
        self._named: dict[str, int] = {}  # by that one, and by whom
        self._renewer = ""

    async def _ask(self, call: Call[Q, A], request: Q) -> A:
        try:
            return await self._peers.call(HUB, call, request, self._within)
        except PeerUnreachableError as error:
            raise DirectoryUnreachableError(str(error)) from None

    async def join(self, node_id: str, address: str) -> None:
        """See Directory."""
        await self._ask(JOIN, pb.HubJoinRequest(node_id=node_id, address=address))

    async def leave(self, node_id: str) -> tuple[Entry, ...]:
        """See Directory."""
        left = await self._ask(LEAVE, pb.HubNodeRequest(node_id=node_id))
        return tuple(map(_entry, left.entries))

    async def nodes(self) -> tuple[Node, ...]:
        """See Directory."""
        answer = await self._ask(NODES, pb.HubNothing())
        return tuple(Node(node.node_id, node.address, node.is_leased) for node in answer.nodes)

    async def is_leased(self, node_id: str) -> bool:
        """See Directory."""
        return (await self._ask(IS_LEASED, pb.HubNodeRequest(node_id=node_id))).is_so

    async def renew(self, node_id: str, owned: Mapping[str, int]) -> Renewal | None:
        """See Directory."""
        base, named = self._base, self._named
        if node_id != self._renewer:
            base, named = 0, {}
        owned = dict(owned)
        answer = await self._renew(node_id, owned, base, named)
        if answer.needs_all:
            answer = await self._renew(node_id, owned, 0, {})
        if not answer.is_known:
            return None
        changed = dict(zip(answer.changed, map(_record, answer.records), strict=True))
        return Renewal(changed, tuple(map(_entry, answer.unnamed)))

    async def _renew(
        self, node_id: str, owned: dict[str, int], base: int, named: dict[str, int]
    ) -> pb.HubRenewAnswer:
        self._renewals += 1
        number = self._renewals
        new = {s: epoch for s, epoch in owned.items() if named.get(s) != epoch}
        request = pb.HubRenewRequest(
            node_id=node_id,
            number=number,
            base=base,
            session_ids=new,
            epochs=new.values(),
            ended=named.keys() - owned.keys(),
        )
        answer = await self._ask(RENEW, request)
        if answer.is_known and not answer.needs_all:
            self._base, self._named, self._renewer = number, owned, node_id
        return answer

    async def read(self, session_id: str) -> Entry | Tombstone | None:
        """See Directory."""
        return _record(await self._ask(READ, pb.HubReadRequest(session_id=session_id)))

    async def create(self, session_id: str, owner: str, openid: str) -> Entry | None:
        """See Directory."""
        request = pb.HubCreateRequest(session_id=session_id, owner=owner, openid=openid)
        answer = await self._ask(CREATE, request)
        return _entry(answer.entry) if answer.HasField("entry") else None

    async def move(
        self, session_id: str, owner: str, epoch: int, to: str
    ) -> Entry | Tombstone | None:
        """See Directory."""
        request = pb.HubMoveRequest(owned=_owned(session_id, owner, epoch), to=to)
        return _record(await self._ask(MOVE, request))

    async def remove(
        self, session_id: str, owner: str, epoch: int, reason: LostReason | None = None
    ) -> bool:
        """See Directory."""
        request = pb.HubRemoveRequest(owned=_owned(session_id, owner, epoch), tombstone=reason)
        return (await self._ask(REMOVE, request)).is_so

    async def bury(self, session_id: str, owner: str, epoch: int) -> bool:
        """See Directory."""
        return (await self._ask(BURY, _owned(session_id, owner, epoch))).is_so

    async def find(self, openid: str) -> Found:
        """See Directory."""
        return _found(await self._ask(FIND, pb.HubFindRequest(openid=openid)))

    async def find_all(self, openids: Sequence[str]) -> list[Found]:
        """See Directory."""
        answer = await self._ask(FIND_ALL, pb.HubFindAllRequest(openids=openids))
        return list(map(_found, answer.found))

    async def login_replacing(
        self, session_id: str, owner: str, epoch: int, *, after_failed_resume: bool
    ) -> Done | Busy | None:
        """See Directory."""
        request = pb.HubLoginRequest(
            owned=_owned(session_id, owner, epoch), is_after_failed_resume=after_failed_resume
        )
        login = _login(await self._ask(LOGIN, request))
        return None if isinstance(login, Again) else login

    async def login_judged(
        self, session_id: str, owner: str, epoch: int, *, version: int, victims: Iterable[str] = ()
    ) -> Done | Again | None:
        """See Directory."""
        request = pb.HubLoginRequest(
            owned=_owned(session_id, owner, epoch), version=version, victims=victims
        )
        login = _login(await self._ask(LOGIN, request))
        return None if isinstance(login, Busy) else login


def _owned(session_id: str, owner: str, epoch: int) -> pb.HubOwned:
    return pb.HubOwned(session_id=session_id, owner=owner, epoch=epoch)


def _entry_pb(entry: Entry) -> pb.HubEntry:
    return pb.HubEntry(
        session_id=entry.session_id,
        owner=entry.owner,
        epoch=entry.epoch,
        openid=entry.openid,
        is_logged_in=entry.logged_in,
    )


def _entry(entry: pb.HubEntry) -> Entry:
    return Entry(entry.session_id, entry.owner, entry.epoch, entry.openid, entry.is_logged_in)


def _found_pb(found: Found) -> pb.HubFound:
    return pb.HubFound(
        entries=map(_entry_pb, found.entries), version=found.version, leased=found.leased
    )


def _found(found: pb.HubFound) -> Found:
    return Found(tuple(map(_entry, found.entries)), found.version, frozenset(found.leased))


def _record_pb(record: Entry | Tombstone | None) -> pb.HubRecord:
    if isinstance(record, Entry):
        return pb.HubRecord(entry=_entry_pb(record))
    return pb.HubRecord() if record is None else pb.HubRecord(tombstone=record.reason)


def _record(record: pb.HubRecord) -> Entry | Tombstone | None:
    if record.HasField("entry"):
        return _entry(record.entry)
    return Tombstone(LostReason(record.tombstone)) if record.HasField("tombstone") else None


def _login(login: pb.HubLogin) -> Done | Busy | Again | None:
    if login.result == pb.HubLogin.DONE:
        return Done(tuple(map(_entry, login.replaced)))
    if login.result == pb.HubLogin.BUSY:
        return Busy()
    return Again() if login.result == pb.HubLogin.AGAIN else None
