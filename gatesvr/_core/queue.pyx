"""The session's outgoing order: slots, waiting min-heap, sent ring, batch ACK (DESIGN D5, D6).

An OrderedQueue is the only outgoing buffer of a session. It knows no clock, callback, socket or
lock; time is an argument. No Python code of the caller runs while the queue changes: bodies are
exact bytes, and numbers are ints and floats read in C, so reading and freeing cannot call back.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from libc.math cimport fmax
from libc.stdint cimport SIZE_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from gatesvr._core.columns cimport columns_of, rows_of
from gatesvr._core.entry cimport (
    BAD_FLAGS, BODY_TOO_LARGE, MAX_BODY_BYTES, Bundle, Entry, PyBytes_GET_SIZE,
    PyLong_AsLongLongAndOverflow, PySequence_Fast, PySequence_Fast_GET_SIZE,
    PySequence_Fast_ITEMS, Sums, bytes_data, clear_sums, entries_of, let_go, new_bundle,
    raise_wrong, read_message, read_messages, set_entry,
)
from gatesvr._core.ring cimport (
    SPARE_MARKS, at, check_ring, commit, find_seq, free_ring, live, make_room, mark, mark_expired,
    mark_oldest, merge_marks, move_in, pop_up_to, run_end,
)
from gatesvr._core.slots cimport (
    check_slots, free_slots, is_filled, is_open, make_heap_room, pop_waiting, push_waiting,
    reserve_slot, shrink_slots, slots_memory,
)
from gatesvr._core.wire cimport head_size, put_head, put_varint, varint_size

cdef object ProtocolError
cdef object QueueFull
cdef object SessionError

from gatesvr.errors import ProtocolError, QueueFull, SessionError


cdef inline uint32_t lost_count(uint64_t first, uint64_t last) noexcept:
    """Return Skip.messages for the seqs from first to last."""
    cdef uint64_t count = last - first + 1
    return <uint32_t>count if count < 0xFFFFFFFF else <uint32_t>0xFFFFFFFF


cdef inline uint32_t skip_size(uint64_t first, uint64_t last) noexcept:
    """Return the bytes of the protobuf Skip{from_seq, messages, reason}."""
    return 1 + varint_size(first) + 1 + varint_size(lost_count(first, last)) + 2


cdef inline unsigned char *put_skip(
    unsigned char *out, uint64_t first, uint64_t last, uint8_t reason
) noexcept:
    """Write the frame ServerPush{seq_id: last, type: PUSH_SKIP, payload: Skip} (PROTOCOL 2.6)."""
    cdef uint32_t size = skip_size(first, last)
    out = put_head(out, 0, last, size + 4)
    out[0] = 0x18  # type = 3
    out[1] = 7
    out[2] = 0x22  # payload = 4
    out[3] = <unsigned char>size
    out[4] = 0x08  # from_seq = 1
    out = put_varint(out + 5, first)
    out[0] = 0x10  # messages = 2
    out = put_varint(out + 1, lost_count(first, last))
    out[0] = 0x18  # reason = 3
    out[1] = reason
    return out + 2


cdef enum:
    MAX_OPEN_SLOTS = 1 << 20  # that restore() takes; requests in flight bound them far below

cdef uint64_t MAX_SEQ = <uint64_t>1 << 62  # far above any, and no sum of two overflows


@cython.final
@cython.auto_pickle(False)
cdef class OrderedQueue:
    """One session's outgoing messages, from release to ack.

    ``reserve`` opens the next slot, ``fill`` completes it, and ``append`` bypasses every open slot.
    ``take`` gives out frames, ``ack_up_to`` frees those that the client has, and ``rewind`` sends
    them again. After ``stop`` the queue is empty for good: ``append``, ``append_one`` and
    ``reserve`` raise SessionError; everything else does nothing and returns 0 or b"".

    Args:
        session_id: The owner; the queue itself does not use it.
        max_queue_size: Limit of messages, waiting and reserved ones included.
        max_queue_bytes: Limit of the bodies' bytes, waiting ones included.
    """

    def __cinit__(
        self,
        str session_id not None="",
        Py_ssize_t max_queue_size=1024,
        Py_ssize_t max_queue_bytes=4 << 20,
    ):
        if max_queue_size < 1 or max_queue_bytes < 1:
            raise ValueError("max_queue_size and max_queue_bytes must be at least 1")
        self.session_id = session_id
        self.max_queue_size = max_queue_size
        self.max_queue_bytes = max_queue_bytes
        self.can_skip = True
        self._ring.next_seq = self._send_seq = 1
        self._slots.first = self._slots.next = 1
        clear_sums(&self._ring.sums)

    def __dealloc__(self):
        free_ring(&self._ring)
        free_slots(&self._slots)

    # --- state

    @property
    def next_expected_seq(self):
        """The seq that the next released message gets."""
        return self._ring.next_seq

    @property
    def last_sent_seq(self):
        """The highest seq that take has given out, 0 for none."""
        return self._sent_seq

    @property
    def last_acked_seq(self):
        """The highest seq acked, 0 for none."""
        return self._ring.acked_seq

    @property
    def stopped(self):
        """Whether stop was called."""
        return self._stopped

    @property
    def open_slots(self):
        """Slots reserved and not yet released, also those filled before their turn."""
        return self._slots.next - self._slots.first

    @property
    def waiting_slots(self):
        """Slots filled before their turn."""
        return self._slots.waiting

    @property
    def unsent(self):
        """Seqs from the send position on, marks included; above 0, take() has work."""
        return self._ring.next_seq - self._send_seq

    @property
    def queued_bytes(self):
        """Bytes of the bodies in the ring and in waiting slots."""
        return self._ring.sums.bytes + self._slots.bytes

    @property
    def kept(self):
        """Messages with KEEP in the ring, and those in waiting slots: answers and bundles."""
        return live(&self._ring) - self._ring.sums.plain + self._slots.messages

    @property
    def bulk(self):
        """Plain messages with BULK in the ring."""
        return self._ring.sums.bulk

    @property
    def bulk_bytes(self):
        """Bytes of the bodies of the plain messages with BULK in the ring."""
        return self._ring.sums.bulk_bytes

    def __len__(self):
        return live(&self._ring)

    def oldest_age(self, double now):
        """Return for how long the oldest message has not been acked, 0.0 where none waits.

        The queue keeps no times of its own: the age is counted from the first call that found this
        message the oldest. Call it once a second.
        """
        cdef uint64_t oldest = self._ring.acked_seq + 1
        if not live(&self._ring):
            self._oldest_seq = 0
            return 0.0
        if self._oldest_seq != oldest:
            self._oldest_seq = oldest
            self._oldest_at = now
        return max(0.0, now - self._oldest_at)

    def __sizeof__(self):
        """Return the bytes of the object and its C memory; bodies count on their own."""
        cdef size_t size = sizeof(OrderedQueue) + self._ring.capacity * sizeof(Entry)
        return size + slots_memory(&self._slots)

    def counters(self):
        """Return the sums since the queue was made.

        ``appended`` and ``released`` count messages that came by append and out of slots,
        ``filled`` slots. ``taken`` counts messages given out, ``replayed`` those given out again,
        ``skips`` the SKIP frames beside them, ``taken_bytes`` the bytes of both. ``acked``,
        ``expired``, ``dropped`` and ``conflated`` count messages that left, ``refused`` those that
        append did not accept.
        """
        return {
            "appended": self._appended,
            "filled": self._filled,
            "released": self._released,
            "taken": self._taken,
            "taken_bytes": self._taken_bytes,
            "acked": self._acked,
            "replayed": self._replayed,
            "expired": self._expired,
            "dropped": self._dropped,
            "conflated": self._conflated,
            "refused": self._refused,
            "skips": self._skips,
        }

    def export(self, double now):
        """Return all that another queue needs to go on as this one does: see restore().

        Args:
            now: The time, on the clock of expires_at.

        Returns:
            The fields of a MovedQueue (protos/cluster.proto), by name.

        Complexity: O(messages + open slots).
        """
        cdef list mark_from = []
        cdef list mark_to = []
        cdef list mark_reason = []
        cdef list waiting = []
        cdef Bundle *bundle
        cdef Entry *entry
        cdef uint64_t seq = self._ring.acked_seq
        cdef size_t index = self._ring.head
        cdef size_t n
        cdef object age = None
        if self._ring.marks:
            while index != self._ring.tail:
                entry = at(&self._ring, index)
                if entry.body == NULL:
                    mark_from.append(seq + 1)
                    mark_to.append(entry.seq)
                    mark_reason.append(entry.reason)
                seq = entry.seq
                index += 1
        for n in range(self._slots.waiting):
            bundle = self._slots.heap[n].bundle
            waiting.append({
                "slot": self._slots.heap[n].slot,
                "messages": None if bundle == NULL else columns_of(
                    entries_of(bundle), 0, SIZE_MAX, bundle.count, now
                ),
            })
        if self._oldest_seq and self._oldest_seq == self._ring.acked_seq + 1:
            age = <uint64_t>fmax(0.0, (now - self._oldest_at) * 1000)
        return {
            "next_seq": self._ring.next_seq,
            "acked_seq": self._ring.acked_seq,
            "sent_seq": self._sent_seq,
            "send_seq": self._send_seq,
            "messages": columns_of(
                self._ring.entries, self._ring.head, self._ring.capacity - 1,
                self._ring.tail - self._ring.head, now,
            ),
            "mark_from": mark_from,
            "mark_to": mark_to,
            "mark_reason": mark_reason,
            "first_slot": self._slots.first,
            "next_slot": self._slots.next,
            "waiting": waiting,
            "sums": list(self.counters().values()),
            "oldest_age_ms": age,
        }

    def restore(self, object state not None, double now):
        """Go on as another queue did when export() was called on it; caps do not apply.

        Call it on a new queue, and drop that if this raises.

        Args:
            state: Has the fields of a MovedQueue as attributes.
            now: The time, on this queue's clock.

        Raises:
            ValueError, TypeError, OverflowError: The state is none that a queue can be in.

        Complexity: O(messages + open slots).
        """
        if self._ring.next_seq != 1 or self._slots.next != 1 or self._stopped:
            raise ValueError("restore() needs a new queue")
        try:
            self._restore_ring(state, now)
            self._restore_slots(state, now)
            self._restore_sums(state.sums)
        except Exception:
            self.stop()
            raise
        if live(&self._ring) and state.HasField("oldest_age_ms"):
            self._oldest_seq = self._ring.acked_seq + 1
            self._oldest_at = now - state.oldest_age_ms / 1000.0

    cdef int _restore_ring(self, object state, double now) except -1:
        cdef Ring *ring = &self._ring
        cdef list mark_from = list(state.mark_from)
        cdef list mark_to = list(state.mark_to)
        cdef list mark_reason = list(state.mark_reason)
        cdef list rows = rows_of(state.messages, now)
        cdef PyObject **items = PySequence_Fast_ITEMS(rows)
        cdef Py_ssize_t marks = len(mark_from)
        cdef Py_ssize_t messages = len(rows)
        cdef Py_ssize_t m = 0
        cdef Py_ssize_t k = 0
        cdef uint64_t next_seq = state.next_seq
        cdef uint64_t acked_seq = state.acked_seq
        cdef uint64_t sent_seq = state.sent_seq
        cdef uint64_t send_seq = state.send_seq
        cdef uint64_t seq = acked_seq + 1
        cdef uint64_t last
        cdef uint8_t reason
        cdef Entry *entry
        cdef Sums sums
        cdef int wrong
        if not (acked_seq < next_seq < MAX_SEQ and sent_seq < next_seq):
            raise ValueError("the seqs of a queue contradict each other")
        if not acked_seq < send_seq <= next_seq:
            raise ValueError("the send position is not in the queue")
        if len(mark_to) != marks or len(mark_reason) != marks:
            raise ValueError("the columns of marks differ in length")
        make_room(ring, messages + marks)
        ring.acked_seq = acked_seq
        clear_sums(&sums)
        while k < marks or m < messages:
            if seq >= next_seq:
                raise ValueError("the queue has more messages than seqs")
            entry = at(ring, ring.tail)
            if k < marks and <uint64_t>mark_from[k] == seq:
                last = mark_to[k]
                reason = mark_reason[k]
                if not seq <= last < next_seq or not 0 < reason < 0x80:
                    raise ValueError("a mark of a queue is out of range")
                entry.seq = last
                entry.body = NULL
                entry.expires_at = 0
                entry.msg_id = 0
                entry.flags = 0
                entry.reason = reason
                ring.marks += 1
                k += 1
            elif m < messages:
                last = seq
                wrong = read_message(items[m], entry, seq, 0, &sums)
                if wrong:
                    raise_wrong(wrong)
                m += 1
            else:
                raise ValueError("the marks of a queue are out of order")
            ring.tail += 1
            seq = last + 1
        if seq != next_seq:
            raise ValueError("the queue has fewer messages than seqs")
        ring.next_seq = next_seq
        ring.sums = sums
        merge_marks(ring)
        self._sent_seq = sent_seq
        self._send_seq = send_seq
        self._send = find_seq(ring, send_seq)
        return 0

    cdef int _restore_slots(self, object state, double now) except -1:
        cdef uint64_t first = state.first_slot
        cdef uint64_t next_slot = state.next_slot
        cdef uint64_t number
        cdef object waiting
        if not 0 < first <= next_slot < MAX_SEQ or next_slot - first > MAX_OPEN_SLOTS:
            raise ValueError("the slots of a queue are out of range")
        self._slots.first = self._slots.next = first
        while self._slots.next != next_slot:
            reserve_slot(&self._slots)
        for waiting in state.waiting:
            number = waiting.slot
            if number == first or not is_open(&self._slots, number):
                raise ValueError("a slot that waits is not open")
            if is_filled(&self._slots, number):
                raise ValueError("a slot waits twice")
            self._fill_early(number, PySequence_Fast(rows_of(waiting.messages, now), ""))
        return 0

    cdef int _restore_sums(self, object sums) except -1:
        cdef uint64_t count = self._ring.next_seq - 1
        if len(sums) < 12:
            raise ValueError("sums of the queue are missing")
        (
            self._appended, self._filled, self._released, self._taken, self._taken_bytes,
            self._acked, self._replayed, self._expired, self._dropped, self._conflated,
            self._refused, self._skips,
        ) = list(sums)[:12]
        if (
            self._appended + self._released != count
            or self._acked + self._expired + self._dropped + self._conflated
            + <uint64_t>live(&self._ring) != count
            or self._replayed > self._taken
        ):
            raise ValueError("the sums of a queue contradict each other")
        return 0

    def slots(self):
        """Return (the lowest open slot, the next slot to open, those filled before their turn).

        The last is a sorted list.
        """
        cdef list early = []
        cdef size_t n
        for n in range(self._slots.waiting):
            early.append(self._slots.heap[n].slot)
        early.sort()
        return self._slots.first, self._slots.next, early

    # --- messages in

    def reserve(self):
        """Open the next slot; it must be filled exactly once, possibly with nothing.

        Raises:
            SessionError: The queue is stopped.
        """
        if self._stopped:
            raise SessionError("queue is stopped")
        return reserve_slot(&self._slots)

    def fill(self, slot, messages):
        """Complete a slot; if it is the lowest open one, release it and those waiting behind it.

        Caps do not apply: an answer got its room when its request was accepted. Does nothing after
        stop.

        Args:
            slot: What reserve returned.
            messages: Zero or more messages that get consecutive seqs; KEEP is their default
                flag.

        Returns:
            The number of messages released, also from slots behind this one; 0 if it must wait.

        Raises:
            ValueError: The slot is not open or already filled, or a flag is unknown.
            TypeError, OverflowError: A message is malformed. Nothing changed.

        Complexity: O(messages) at its turn, O(messages + log waiting) before it.
        """
        cdef object fast
        cdef Py_ssize_t count
        cdef uint64_t number
        cdef int overflow = 0
        cdef Ring *ring = &self._ring
        cdef Sums sums
        if self._stopped:
            return 0
        fast = PySequence_Fast(messages, "messages must be a sequence")
        count = PySequence_Fast_GET_SIZE(fast)
        if not isinstance(slot, int):
            raise TypeError("a slot is an int")
        number = <uint64_t>PyLong_AsLongLongAndOverflow(<PyObject *>slot, &overflow)
        if overflow or not is_open(&self._slots, number):
            raise ValueError(f"slot {slot} is not open")
        if is_filled(&self._slots, number):
            raise ValueError(f"slot {slot} is filled already")
        if number != self._slots.first:
            return self._fill_early(number, fast)
        # Make room for everything that may be released now, so that nothing fails halfway.
        make_room(&self._ring, count + self._slots.messages)
        read_messages(
            fast, ring.entries, ring.tail, ring.capacity - 1, ring.next_seq, KEEP, &sums
        )
        commit(&self._ring, count, &sums)
        self._slots.first += 1
        self._filled += 1
        if self._slots.waiting:
            count += self._release_waiting()
        shrink_slots(&self._slots)
        self._released += count
        return count

    def append(self, messages, bint force=False):
        """Sequence messages at once, ahead of every open slot.

        Args:
            messages: Messages that get consecutive seqs; plain unless they have flags.
            force: Whether to ignore caps: for an answer, whose room is in ``reserved``.

        Returns:
            The seq of the last of them; without messages, the last seq given so far.

        Raises:
            QueueFull: A cap would be exceeded. Nothing changed.
            SessionError: The queue is stopped.
            TypeError, ValueError, OverflowError: A message is malformed. Nothing changed.

        Complexity: O(messages).
        """
        cdef object fast = PySequence_Fast(messages, "messages must be a sequence")
        cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(fast)
        cdef Ring *ring = &self._ring
        cdef Sums sums
        if self._stopped:
            raise SessionError("queue is stopped")
        if not force and count and count > self._room():
            self._refuse(count)
        make_room(&self._ring, count)
        read_messages(
            fast, ring.entries, ring.tail, ring.capacity - 1, ring.next_seq, 0, &sums
        )
        if not force and count and sums.bytes > self._room_bytes():
            let_go(ring.entries, ring.tail, ring.capacity - 1, count)
            self._refuse(count)
        commit(&self._ring, count, &sums)
        self._appended += count
        return self._ring.next_seq - 1

    def append_one(
        self,
        uint32_t msg_id,
        bytes body not None,
        int flags=0,
        double expires_at=0.0,
        bint force=False,
    ):
        """Do the same as ``append([(msg_id, body, flags, expires_at)], force)``, faster.

        Returns:
            The message's seq.

        Raises:
            QueueFull: A cap would be exceeded. Nothing changed.
            SessionError: The queue is stopped.
            TypeError, ValueError, OverflowError: An argument is malformed.
        """
        cdef PyObject *content = <PyObject *>body
        cdef Sums sums
        if flags & ~(KEEP | BULK):
            raise_wrong(BAD_FLAGS)
        if PyBytes_GET_SIZE(content) > MAX_BODY_BYTES:
            raise_wrong(BODY_TOO_LARGE)
        if self._stopped:
            raise SessionError("queue is stopped")
        if not force and (
            self._room() < 1 or PyBytes_GET_SIZE(content) > self._room_bytes()
        ):
            self._refuse(1)
        make_room(&self._ring, 1)
        clear_sums(&sums)
        set_entry(
            at(&self._ring, self._ring.tail),
            self._ring.next_seq, msg_id, content, <uint8_t>flags, expires_at, &sums,
        )
        commit(&self._ring, 1, &sums)
        self._appended += 1
        return self._ring.next_seq - 1

    # --- messages out

    def take(self, Py_ssize_t max_bytes):
        """Give out whole frames from the send position, and move the position behind them.

        Neighbouring marks go out as one SKIP frame; without ``can_skip`` they are left out. A SKIP
        carries the reason of the last message it stands for.

        Args:
            max_bytes: Limit of the frames' total size; the first frame may exceed it.

        Returns:
            The frames in seq order; b"" if nothing waits.

        Complexity: O(frames + bytes).
        """
        cdef size_t index = self._send
        cdef uint64_t seq = self._send_seq
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t size
        cdef size_t last
        cdef uint32_t skip
        cdef Entry *entry
        cdef bytes frames
        cdef unsigned char *out
        while index != self._ring.tail:
            last = index
            entry = at(&self._ring, index)
            if entry.body != NULL:
                size = head_size(entry.msg_id, seq) + PyBytes_GET_SIZE(entry.body)
            else:
                last = run_end(&self._ring, index)
                entry = at(&self._ring, last)
                size = 0
                if self.can_skip:
                    skip = skip_size(seq, entry.seq)
                    size = head_size(0, entry.seq) + skip + 4
            if total and size and total + size > max_bytes:
                break
            total += size
            seq = entry.seq + 1
            index = last + 1
        if total == 0:
            self._send = index
            self._send_seq = seq
            return b""
        frames = PyBytes_FromStringAndSize(NULL, total)
        out = <unsigned char *>PyBytes_AS_STRING(frames)
        last = index  # where the first pass stopped
        index = self._send
        seq = self._send_seq
        while index != last:
            entry = at(&self._ring, index)
            if entry.body != NULL:
                size = PyBytes_GET_SIZE(entry.body)
                out = put_head(out, entry.msg_id, seq, <uint32_t>size)
                memcpy(out, bytes_data(entry.body), size)
                out += size
                self._taken += 1
                if seq <= self._sent_seq:
                    self._replayed += 1
                else:
                    self._sent_seq = seq
            else:
                index = run_end(&self._ring, index)
                entry = at(&self._ring, index)
                if self.can_skip:
                    out = put_skip(out, seq, entry.seq, entry.reason)
                    self._skips += 1
                    if entry.seq > self._sent_seq:
                        self._sent_seq = entry.seq
            seq = entry.seq + 1
            index += 1
        self._send = index
        self._send_seq = seq
        self._taken_bytes += total
        return frames

    def ack_up_to(self, uint64_t seq):
        """Free everything up to seq, which the client's application has processed (PROTOCOL 2.5).

        Returns:
            The number of seqs newly acked, marks included; 0 for an old ack.

        Raises:
            ProtocolError: The queue has not given out this seq.

        Complexity: O(acked); O(messages) at most once after marks were made.
        """
        cdef uint64_t moved
        if seq <= self._ring.acked_seq or self._stopped:
            return 0
        if seq >= self._ring.next_seq:
            raise ProtocolError(f"ack {seq} is above the last seq {self._ring.next_seq - 1}")
        moved = seq - self._ring.acked_seq
        self._acked += pop_up_to(&self._ring, seq)
        if self._send_seq <= seq:
            self._send_seq = seq + 1
            self._send = self._ring.head
        if self._ring.marks > <size_t>live(&self._ring) + SPARE_MARKS:
            # Messages left and marks stayed. Merge them, so that marks never outnumber the rest.
            merge_marks(&self._ring)
            self._send = find_seq(&self._ring, self._send_seq)
        return moved

    def rewind(self, uint64_t seq):
        """Set the send position to seq, or right behind the highest ack if that is later.

        Returns:
            The number of seqs, marks included, that take will give out again.

        Raises:
            ValueError: Seq is above next_expected_seq.

        Complexity: O(log messages).
        """
        if self._stopped:
            return 0
        if seq > self._ring.next_seq:
            raise ValueError(f"seq {seq} is above the next one {self._ring.next_seq}")
        if seq <= self._ring.acked_seq:
            seq = self._ring.acked_seq + 1
        self._send_seq = seq
        self._send = find_seq(&self._ring, seq)
        return self._sent_seq - seq + 1 if self._sent_seq >= seq else 0

    def lost_range(self):
        """Return the first and the last seq of the marks from the send position on.

        Returns:
            (0, 0) if there are no marks.

        Complexity: O(1) without marks, else O(messages).
        """
        cdef size_t index = self._send
        cdef uint64_t seq = self._send_seq
        cdef uint64_t first = 0
        cdef uint64_t last = 0
        cdef Entry *entry
        if self._ring.marks == 0:
            return 0, 0
        while index != self._ring.tail:
            entry = at(&self._ring, index)
            if entry.body == NULL:
                if first == 0:
                    first = seq
                last = entry.seq
            seq = entry.seq + 1
            index += 1
        return first, last

    # --- messages that leave without an ack

    def next_expiry(self):
        """Return a time before which expire has nothing to do; inf if nothing expires."""
        return self._ring.sums.next_expiry

    def expire(self, double now):
        """Turn plain messages whose expires_at is not after now into marks.

        Returns:
            The number of messages that expired.

        Complexity: O(1) before next_expiry, else O(messages).
        """
        cdef Py_ssize_t count
        if not now >= self._ring.sums.next_expiry:
            return 0
        count = mark_expired(&self._ring, now, EXPIRED)
        if count:
            self._expired += count
            merge_marks(&self._ring)
            self._send = find_seq(&self._ring, self._send_seq)
        return count

    def drop_oldest(self, Py_ssize_t messages, Py_ssize_t max_bytes):
        """Turn the oldest plain messages into marks, BULK ones first, until new ones have room.

        Drops nothing if even all of them would not make enough room.

        Args:
            messages: Number of messages to make room for.
            max_bytes: Upper bound of their bodies' bytes.

        Returns:
            The number of messages dropped.

        Complexity: O(messages in the queue) at worst, O(dropped) if they are the oldest.
        """
        cdef Py_ssize_t over = messages - self._room()
        cdef Py_ssize_t over_bytes = max_bytes - self._room_bytes()
        cdef Py_ssize_t count = 0
        if over > self._ring.sums.plain or over_bytes > self._ring.sums.plain_bytes:
            return 0
        if self._ring.sums.bulk:
            count = mark_oldest(&self._ring, &over, &over_bytes, BULK, OVERFLOW)
        count += mark_oldest(&self._ring, &over, &over_bytes, 0, OVERFLOW)
        if count:
            self._dropped += count
            merge_marks(&self._ring)
            self._send = find_seq(&self._ring, self._send_seq)
        return count

    def conflate(self, uint64_t seq):
        """Turn a plain message that take has not given out into a mark: a newer one replaces it.

        Returns:
            False if the message is acked, given out, expired, dropped or marked KEEP.

        Complexity: O(log messages); O(messages) once marks have accumulated.
        """
        cdef size_t index
        cdef Entry *entry
        if seq <= self._sent_seq or seq <= self._ring.acked_seq or seq >= self._ring.next_seq:
            return False
        if self._stopped:
            return False
        index = find_seq(&self._ring, seq)
        entry = at(&self._ring, index)
        if entry.seq != seq or entry.body == NULL or entry.flags & FLAG_KEEP:
            return False
        mark(&self._ring, entry, CONFLATED)
        self._conflated += 1
        merge_marks(&self._ring)
        self._send = find_seq(&self._ring, self._send_seq)
        return True

    def stop(self):
        """Free everything, for good. Idempotent."""
        free_ring(&self._ring)
        free_slots(&self._slots)
        self._stopped = True
        self._send_seq = self._ring.next_seq
        self._send = 0

    # --- inside

    cdef Py_ssize_t _room(self) noexcept:
        """Return how many more messages append accepts; negative above the cap."""
        return self.max_queue_size - self.reserved - self._slots.messages - live(&self._ring)

    cdef Py_ssize_t _room_bytes(self) noexcept:
        """Return how many more bytes append accepts; negative above the cap."""
        return self.max_queue_bytes - self._ring.sums.bytes - self._slots.bytes

    cdef int _refuse(self, Py_ssize_t count) except -1:
        self._refused += count
        raise QueueFull("the session's queue is full")

    cdef int _fill_early(self, uint64_t slot, object fast) except -1:
        """Keep a slot's messages until its turn."""
        cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(fast)
        cdef Bundle *bundle = NULL
        make_heap_room(&self._slots)
        if count:
            bundle = new_bundle(count)
            if bundle == NULL:
                raise MemoryError
            try:
                read_messages(fast, entries_of(bundle), 0, SIZE_MAX, 0, KEEP, &bundle.sums)
            except Exception:
                PyMem_Free(bundle)
                raise
            bundle.count = count
        push_waiting(&self._slots, slot, bundle)
        self._filled += 1
        return 0

    cdef Py_ssize_t _release_waiting(self) noexcept:
        """Move the bundles whose turn has come to the ring, which has room for them."""
        cdef Py_ssize_t released = 0
        cdef Bundle *bundle
        while self._slots.waiting and self._slots.heap[0].slot == self._slots.first:
            bundle = pop_waiting(&self._slots)
            self._slots.first += 1
            if bundle != NULL:
                move_in(&self._ring, bundle)
                released += bundle.count
                PyMem_Free(bundle)
        return released

    def _check(self):
        """Raise AssertionError if an invariant does not hold; for tests."""
        cdef size_t index
        cdef uint64_t end = self._ring.next_seq
        assert self._sent_seq < end and self._send_seq <= end
        assert self._appended + self._released == end - 1
        assert self._replayed <= self._taken
        check_slots(&self._slots)
        if self._stopped:
            assert self._ring.entries == NULL and self._slots.filled == NULL
            assert len(self) == 0 and self.unsent == 0 and self.queued_bytes == 0
            assert self.open_slots == 0 and self.waiting_slots == 0
            return
        check_ring(&self._ring)
        assert self._ring.acked_seq < self._send_seq
        assert self._send == find_seq(&self._ring, self._send_seq)
        index = self._ring.head
        while index != self._ring.tail:
            assert (index < self._send) == (at(&self._ring, index).seq < self._send_seq)
            index += 1
        assert (
            self._acked + self._expired + self._dropped + self._conflated + len(self) == end - 1
        )
