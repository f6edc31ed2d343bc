"""SessionInfo: a session as GetSession shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._pb import upstream_pb2 as pb
from ..config import join_address

if TYPE_CHECKING:
    from .session import Session

__all__ = ["session_info"]


def session_info(session: Session, now: float, wall_ms: int) -> pb.SessionInfo:
    """Return every field of a session and its queue.

    Args:
        session: The session.
        now: Loop time.
        wall_ms: The same moment in ms since the epoch.
    """
    outbox = session.outbox
    queue = outbox.queue
    link = session.link
    bound = outbox.notifies
    return pb.SessionInfo(
        found=True,
        session_id=session.session_id,
        connection=join_address(*link.peer) if link is not None else "",
        stream_id=0,  # PROTOCOL 1.2: the client speaks on QUIC's stream 0 alone
        state=session.state.name.capitalize(),
        client_id=session.client_id,
        openid=session.openid,
        zone=session.zone,
        user_ip=session.user_ip,
        next_server_seq=queue.next_expected_seq,
        max_client_seq=session.max_client_seq,
        client_ack_server_seq=queue.last_acked_seq,
        create_time_ms=wall_ms - int((now - session.create_time) * 1000),
        last_activity_ms=wall_ms - int((now - session.last_activity) * 1000),
        generation=session.generation,
        in_flight=len(session.pending),
        protocol=session.protocol,
        connection_id=link.connection_id if link is not None else 0,
        transport=session.transport,
        before_notifies=bound.before if bound is not None else 0,
        after_notifies=bound.after if bound is not None else 0,
        held_notifies=len(outbox.held) if outbox.held is not None else 0,
        max_queue_size=queue.max_queue_size,
        max_queue_bytes=queue.max_queue_bytes,
        next_expected_seq=queue.next_expected_seq,
        last_sent_seq=queue.last_sent_seq,
        last_acked_seq=queue.last_acked_seq,
        waiting_slots=queue.waiting_slots,
        queued_messages=len(queue),
        queued_bytes=queue.queued_bytes,
        stopped=queue.stopped,
        open_slots=queue.open_slots,
        unsent_messages=queue.unsent,
        queue_sums=queue.counters(),
    )
