"""The session's outgoing order: slots, waiting min-heap, sent ring, batch ACK (DESIGN D5, D6).

An OrderedQueue is the only outgoing buffer of a session. It knows no clock, callback, socket or
lock; time comes in as an argument. No code of the caller's runs while it changes itself: bodies are
exact bytes, numbers exact or derived ints and floats, so neither parsing nor freeing can call back.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport SIZE_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from gatesvr._core.wire cimport MAX_HEAD_BYTES, head_size, put_head, put_varint, varint_size

cdef object ProtocolError
cdef object QueueFull
cdef object SessionError

from gatesvr.errors import ProtocolError, QueueFull, SessionError

cdef extern from "Python.h":
    # With PyObject * instead of object: nothing is counted while a message is read.
    PyObject *PyTuple_GET_ITEM(PyObject *value, Py_ssize_t index) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *value) noexcept
    bint PyTuple_Check(PyObject *value) noexcept
    bint PyBytes_CheckExact(PyObject *value) noexcept
    Py_ssize_t PyBytes_GET_SIZE(PyObject *value) noexcept
    const char *bytes_data "PyBytes_AS_STRING"(PyObject *value) noexcept
    bint PyFloat_Check(PyObject *value) noexcept
    double PyFloat_AS_DOUBLE(PyObject *value) noexcept
    bint PyLong_Check(PyObject *value) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) noexcept
    void Py_INCREF(PyObject *value) noexcept
    void Py_DECREF(PyObject *value) noexcept
    object PySequence_Fast(object value, const char *message)
    Py_ssize_t PySequence_Fast_GET_SIZE(object value) noexcept
    PyObject **PySequence_Fast_ITEMS(object value) noexcept


cdef enum:
    MIN_RING = 16  # entries: a batch of 16 in 512 bytes
    KEPT_RING = 64  # entries: a ring up to this size is never shrunk
    MIN_SLOTS = 16
    SPARE_MARKS = 16  # marks beyond one a message that wait for being merged together
    MAX_BODY_BYTES = 0x7FFFFFFF - MAX_HEAD_BYTES  # a frame's length is a u32

cdef enum:  # what is wrong with a message
    GOOD
    NOT_A_TUPLE
    BAD_MSG_ID
    MSG_ID_RANGE
    BAD_BODY
    BODY_TOO_LARGE
    BAD_FLAGS
    BAD_EXPIRES_AT


cdef inline void clear_sums(Sums *sums) noexcept:
    sums.bytes = sums.plain = sums.plain_bytes = sums.bulk = 0
    sums.next_expiry = INFINITY


cdef inline void set_entry(
    Entry *entry, uint64_t seq, uint32_t msg_id, PyObject *body, uint8_t flags, double expires_at,
    Sums *sums,
) noexcept:
    """Make entry a message, with a reference to body of its own, and add it to sums."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    Py_INCREF(body)
    entry.seq = seq
    entry.body = body
    entry.msg_id = msg_id
    entry.flags = flags
    entry.reason = 0
    entry.expires_at = 0
    sums.bytes += size
    if not flags & KEEP:
        sums.plain += 1
        sums.plain_bytes += size
        if flags & BULK:
            sums.bulk += 1
        if expires_at > 0:
            entry.expires_at = expires_at
            if expires_at < sums.next_expiry:
                sums.next_expiry = expires_at


cdef inline int read_message(
    PyObject *message, Entry *entry, uint64_t seq, uint8_t flags, Sums *sums
) noexcept:
    """Fill entry from a Message of the caller's; return GOOD or what is wrong with it.

    Raises nothing, because raising allocates, and collecting garbage may run anybody's code.
    """
    cdef PyObject *item
    cdef PyObject *body
    cdef Py_ssize_t parts
    cdef long long msg_id
    cdef long long number
    cdef double expires_at = 0
    cdef int overflow = 0
    if not PyTuple_Check(message):
        return NOT_A_TUPLE
    parts = PyTuple_GET_SIZE(message)
    if parts < 2 or parts > 4:
        return NOT_A_TUPLE
    item = PyTuple_GET_ITEM(message, 0)
    if not PyLong_Check(item):
        return BAD_MSG_ID
    msg_id = PyLong_AsLongLongAndOverflow(item, &overflow)
    if overflow or msg_id < 0 or msg_id > 0xFFFFFFFF:
        return MSG_ID_RANGE
    body = PyTuple_GET_ITEM(message, 1)
    if not PyBytes_CheckExact(body):
        return BAD_BODY
    if PyBytes_GET_SIZE(body) > MAX_BODY_BYTES:
        return BODY_TOO_LARGE
    if parts > 2:
        item = PyTuple_GET_ITEM(message, 2)
        if not PyLong_Check(item):
            return BAD_FLAGS
        number = PyLong_AsLongLongAndOverflow(item, &overflow)
        if overflow or number & ~(KEEP | BULK):
            return BAD_FLAGS
        flags = <uint8_t>number
        if parts > 3:
            item = PyTuple_GET_ITEM(message, 3)
            if PyFloat_Check(item):
                expires_at = PyFloat_AS_DOUBLE(item)
            elif PyLong_Check(item):
                expires_at = <double>PyLong_AsLongLongAndOverflow(item, &overflow)
                if overflow:
                    expires_at = INFINITY if overflow > 0 else 0
            else:
                return BAD_EXPIRES_AT
    set_entry(entry, seq, <uint32_t>msg_id, body, flags, expires_at, sums)
    return GOOD


cdef int read_messages(
    object fast, Entry *entries, size_t first, size_t mask, uint64_t seq, uint8_t flags,
    Sums *sums,
) except -1:
    """Read a list or tuple of Messages into entries[(first + n) & mask]; all of them, or raise."""
    cdef PyObject **items = PySequence_Fast_ITEMS(fast)
    cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(fast)
    cdef Py_ssize_t n
    cdef int wrong
    clear_sums(sums)
    for n in range(count):
        wrong = read_message(items[n], &entries[(first + n) & mask], seq + n, flags, sums)
        if wrong:
            let_go(entries, first, mask, n)
            raise_wrong(wrong)
    return 0


cdef void let_go(Entry *entries, size_t first, size_t mask, size_t count) noexcept:
    """Give back the references of entries[first] to entries[first + count - 1]."""
    cdef size_t n
    for n in range(count):
        if entries[(first + n) & mask].body != NULL:
            Py_DECREF(entries[(first + n) & mask].body)


cdef int raise_wrong(int wrong) except -1:
    if wrong == NOT_A_TUPLE:
        raise TypeError("a message is a tuple (msg_id, body[, flags[, expires_at]])")
    if wrong == BAD_MSG_ID:
        raise TypeError("msg_id must be an int")
    if wrong == MSG_ID_RANGE:
        raise OverflowError("msg_id must be from 0 to 4294967295")
    if wrong == BAD_BODY:
        raise TypeError("body must be bytes")
    if wrong == BODY_TOO_LARGE:
        raise OverflowError("body is too large for a frame")
    if wrong == BAD_FLAGS:
        raise ValueError("flags must be KEEP, BULK, both or 0")
    raise TypeError("expires_at must be a float or an int")


cdef inline Bundle *new_bundle(Py_ssize_t count) noexcept:
    return <Bundle *>PyMem_Malloc(sizeof(Bundle) + count * sizeof(Entry))


cdef inline Entry *entries_of(Bundle *bundle) noexcept:
    return <Entry *>(bundle + 1)


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


@cython.final
@cython.auto_pickle(False)
cdef class OrderedQueue:
    """One session's outgoing messages, from release to ack.

    ``reserve`` takes the next place among the slots, ``fill`` completes it, ``append`` goes ahead
    of every open slot. ``take`` gives out frames, ``ack_up_to`` frees what the client has,
    ``rewind`` sends it again. After ``stop`` the queue is empty for good: ``append``,
    ``append_one`` and ``reserve`` raise SessionError, everything else does nothing and returns 0
    or b"".

    Args:
        session_id: Whose queue it is; for the reader only.
        max_queue_size: Messages that the queue holds at most, waiting and reserved ones included.
        max_queue_bytes: Bytes of bodies that it holds at most, waiting ones included.
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
        self._next_seq = self._send_seq = 1
        self._first_slot = self._next_slot = 1
        clear_sums(&self._sums)

    def __dealloc__(self):
        self._free_all()

    # --- what it is like

    @property
    def next_expected_seq(self):
        """The seq that the next released message gets."""
        return self._next_seq

    @property
    def last_sent_seq(self):
        """The highest seq that take ever gave out, 0 for none."""
        return self._sent_seq

    @property
    def last_acked_seq(self):
        """The highest seq that was acked, 0 for none."""
        return self._acked_seq

    @property
    def stopped(self):
        """Whether stop was called."""
        return self._stopped

    @property
    def open_slots(self):
        """Slots reserved and not yet released, those filled before their turn included."""
        return self._next_slot - self._first_slot

    @property
    def waiting_slots(self):
        """Slots filled before their turn."""
        return self._heap_size

    @property
    def unsent(self):
        """Seqs from the send position on, those of marks included: take() has work."""
        return self._next_seq - self._send_seq

    @property
    def queued_bytes(self):
        """Bytes of the bodies in the ring and in waiting slots."""
        return self._sums.bytes + self._waiting_bytes

    @property
    def kept(self):
        """Messages with KEEP in the ring, and those in waiting slots: answers and bundles."""
        return (
            <Py_ssize_t>(self._tail - self._head - self._marks)
            - self._sums.plain
            + self._waiting_messages
        )

    @property
    def bulk(self):
        """Plain messages with BULK in the ring."""
        return self._sums.bulk

    def __len__(self):
        return self._tail - self._head - self._marks

    def __sizeof__(self):
        """Return the bytes of the object and its own C memory; bodies are counted by their own."""
        cdef size_t size = sizeof(OrderedQueue) + self._capacity * sizeof(Entry)
        cdef size_t n
        size += self._slot_capacity + self._heap_capacity * sizeof(Waiting)
        for n in range(self._heap_size):
            if self._heap[n].bundle != NULL:
                size += sizeof(Bundle) + self._heap[n].bundle.count * sizeof(Entry)
        return size

    def counters(self):
        """Return the sums since the queue was made.

        ``appended`` and ``released`` count the messages that came by append and out of slots,
        ``filled`` slots, ``taken`` messages given out, ``replayed`` those of them that had been
        given out before, ``skips`` the SKIP frames beside them, ``taken_bytes`` the bytes of both;
        ``acked``, ``expired`` and ``dropped`` the messages that left, ``refused`` those that
        append did not take.
        """
        return {
            "appended": self._appended,
            "filled": self._filled_slots,
            "released": self._released,
            "taken": self._taken,
            "taken_bytes": self._taken_bytes,
            "acked": self._acked,
            "replayed": self._replayed,
            "expired": self._expired,
            "dropped": self._dropped,
            "refused": self._refused,
            "skips": self._skips,
        }

    # --- messages in

    def reserve(self):
        """Take the next slot; it must be filled once, be it with nothing.

        Raises:
            SessionError: The queue is stopped.
        """
        cdef size_t open_slots = <size_t>(self._next_slot - self._first_slot)
        cdef size_t capacity
        cdef uint8_t *filled
        cdef uint64_t slot
        if self._stopped:
            raise SessionError("queue is stopped")
        if open_slots == self._slot_capacity:
            capacity = 2 * open_slots if open_slots else MIN_SLOTS
            filled = <uint8_t *>PyMem_Malloc(capacity)
            if filled == NULL:
                raise MemoryError
            for slot in range(self._first_slot, self._next_slot):
                filled[slot & (capacity - 1)] = self._filled[slot & (self._slot_capacity - 1)]
            PyMem_Free(self._filled)
            self._filled = filled
            self._slot_capacity = capacity
        slot = self._next_slot
        self._filled[slot & (self._slot_capacity - 1)] = 0
        self._next_slot += 1
        return slot

    def fill(self, slot, messages):
        """Complete a slot; where it is the lowest open one, release it and what waited for it.

        Caps do not apply: an answer had its room when its request was accepted. Does nothing when
        the queue is stopped.

        Args:
            slot: What reserve returned.
            messages: Zero or more Messages that get consecutive seqs; KEEP where they have no
                flags of their own.

        Returns:
            The messages released, those of slots behind it included; 0 when it has to wait.

        Raises:
            ValueError: The slot is not open, or is filled already; or the flags are unknown.
            TypeError, OverflowError: A message is not what it should be. Nothing changed.

        Complexity: O(messages) when it is its turn, O(messages + log waiting) before.
        """
        cdef object fast
        cdef Py_ssize_t count
        cdef uint64_t number
        cdef int overflow = 0
        cdef Sums sums
        if self._stopped:
            return 0
        fast = PySequence_Fast(messages, "messages must be a sequence")
        count = PySequence_Fast_GET_SIZE(fast)
        if not isinstance(slot, int):
            raise TypeError("a slot is an int")
        number = <uint64_t>PyLong_AsLongLongAndOverflow(<PyObject *>slot, &overflow)
        if overflow or not self._first_slot <= number < self._next_slot:
            raise ValueError(f"slot {slot} is not open")
        if self._filled[number & (self._slot_capacity - 1)]:
            raise ValueError(f"slot {slot} is filled already")
        if number != self._first_slot:
            self._fill_early(number, fast, count)
            return 0
        # Room for all that may be released now, so that nothing fails halfway.
        self._make_room(count + self._waiting_messages)
        read_messages(
            fast, self._ring, self._tail, self._capacity - 1, self._next_seq, KEEP, &sums
        )
        self._commit(count, &sums)
        self._first_slot += 1
        self._filled_slots += 1
        if self._heap_size:
            count += self._release_waiting()
        if self._first_slot == self._next_slot and self._slot_capacity > KEPT_RING:
            PyMem_Free(self._filled)
            self._filled = NULL
            self._slot_capacity = 0
        self._released += count
        return count

    def append(self, messages, bint force=False):
        """Sequence messages at once, ahead of every open slot.

        Args:
            messages: Messages that get consecutive seqs; plain where they have no flags.
            force: Whether caps do not apply: an answer's, whose room is in ``reserved``.

        Returns:
            The seq of the last of them (of the last message ever where there are none).

        Raises:
            QueueFull: A cap would be passed. Nothing changed.
            SessionError: The queue is stopped.
            TypeError, ValueError, OverflowError: A message is not what it should be. Nothing
                changed.

        Complexity: O(messages).
        """
        cdef object fast = PySequence_Fast(messages, "messages must be a sequence")
        cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(fast)
        cdef Sums sums
        if self._stopped:
            raise SessionError("queue is stopped")
        if not force and count > self._room():
            self._refuse(count)
        self._make_room(count)
        read_messages(
            fast, self._ring, self._tail, self._capacity - 1, self._next_seq, 0, &sums
        )
        if not force and sums.bytes > (
            self.max_queue_bytes - self._sums.bytes - self._waiting_bytes
        ) and count:
            let_go(self._ring, self._tail, self._capacity - 1, count)
            self._refuse(count)
        self._commit(count, &sums)
        self._appended += count
        return self._next_seq - 1

    def append_one(
        self,
        uint32_t msg_id,
        bytes body not None,
        int flags=0,
        double expires_at=0.0,
        bint force=False,
    ):
        """Do what ``append([(msg_id, body, flags, expires_at)], force)`` does, faster.

        Returns:
            The message's seq.

        Raises:
            QueueFull: A cap would be passed. Nothing changed.
            SessionError: The queue is stopped.
            TypeError, ValueError, OverflowError: An argument is not what it should be.
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
            self._room() < 1
            or PyBytes_GET_SIZE(content)
            > self.max_queue_bytes - self._sums.bytes - self._waiting_bytes
        ):
            self._refuse(1)
        self._make_room(1)
        clear_sums(&sums)
        set_entry(
            &self._ring[self._tail & (self._capacity - 1)],
            self._next_seq, msg_id, content, <uint8_t>flags, expires_at, &sums,
        )
        self._commit(1, &sums)
        self._appended += 1
        return self._next_seq - 1

    # --- messages out

    def take(self, Py_ssize_t max_bytes):
        """Give out whole frames from the send position on, and move it behind them.

        Marks go out as SKIP frames, one for neighbours; where ``can_skip`` is False they are passed
        over. The reason of a SKIP is that of the last message it stands for.

        Args:
            max_bytes: What the frames may take together; the first one may take more.

        Returns:
            The frames in the order of their seqs; b"" when nothing waits.

        Complexity: O(frames + bytes).
        """
        cdef size_t index = self._send
        cdef size_t mask = self._capacity - 1
        cdef uint64_t seq = self._send_seq
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t size
        cdef size_t last
        cdef uint32_t skip
        cdef Entry *entry
        cdef bytes frames
        cdef unsigned char *out
        while index != self._tail:
            last = index
            entry = &self._ring[index & mask]
            if entry.body != NULL:
                size = head_size(entry.msg_id, seq) + PyBytes_GET_SIZE(entry.body)
            else:
                last = self._run_end(index)
                entry = &self._ring[last & mask]
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
            entry = &self._ring[index & mask]
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
                index = self._run_end(index)
                entry = &self._ring[index & mask]
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
        """Free everything up to seq: the client's application has it (PROTOCOL 2.5).

        Returns:
            The seqs newly acked, those of marks included; 0 for an old ack.

        Raises:
            ProtocolError: Seq was never given out.

        Complexity: O(acked).
        """
        cdef size_t mask = self._capacity - 1
        cdef uint64_t moved
        cdef Entry *entry
        if seq <= self._acked_seq or self._stopped:
            return 0
        if seq >= self._next_seq:
            raise ProtocolError(f"ack {seq} is above the last seq {self._next_seq - 1}")
        while self._head != self._tail:
            entry = &self._ring[self._head & mask]
            if entry.seq > seq:
                break
            if entry.body != NULL:
                self._forget(entry)
                self._acked += 1
            else:
                self._marks -= 1
            self._head += 1
        moved = seq - self._acked_seq
        self._acked_seq = seq
        if self._send_seq <= seq:
            self._send_seq = seq + 1
            self._send = self._head
        if self._sums.plain == 0:
            self._sums.next_expiry = INFINITY
        self._shrink_ring()
        return moved

    def rewind(self, uint64_t seq):
        """Set the send position to seq, or right behind the highest ack if that is later.

        Returns:
            The seqs, marks included, that take gave out before and now gives out again.

        Raises:
            ValueError: Seq is above next_expected_seq.

        Complexity: O(log messages).
        """
        if self._stopped:
            return 0
        if seq > self._next_seq:
            raise ValueError(f"seq {seq} is above the next one {self._next_seq}")
        if seq <= self._acked_seq:
            seq = self._acked_seq + 1
        self._send_seq = seq
        self._send = self._find(seq)
        return self._sent_seq - seq + 1 if self._sent_seq >= seq else 0

    # --- what leaves without an ack

    def next_expiry(self):
        """Return when expire may have work: never later than that, inf when nothing expires."""
        return self._sums.next_expiry

    def expire(self, double now):
        """Turn the plain messages whose expires_at is not after now into marks.

        Returns:
            How many they were.

        Complexity: O(1) before next_expiry, else O(messages).
        """
        cdef double next_expiry = INFINITY
        cdef Py_ssize_t count = 0
        cdef size_t index = self._head
        cdef Entry *entry
        if not now >= self._sums.next_expiry:
            return 0
        while index != self._tail:
            entry = &self._ring[index & (self._capacity - 1)]
            if entry.body != NULL and entry.expires_at > 0:
                if entry.expires_at <= now:
                    self._mark(entry, REASON_EXPIRED)
                    count += 1
                elif entry.expires_at < next_expiry:
                    next_expiry = entry.expires_at
            index += 1
        self._sums.next_expiry = next_expiry
        self._expired += count
        if count:
            self._merge_marks()
        return count

    def drop_oldest(self, Py_ssize_t messages, Py_ssize_t max_bytes):
        """Turn the oldest plain messages into marks, BULK ones first, until others have room.

        Drops nothing where even all of them would not do.

        Args:
            messages: How many messages want in.
            max_bytes: What their bodies take together at most.

        Returns:
            How many messages were dropped.

        Complexity: O(messages in the queue) at worst, O(dropped) where they are the oldest.
        """
        cdef Py_ssize_t over = messages - self._room()
        cdef Py_ssize_t over_bytes = (
            max_bytes - (self.max_queue_bytes - self._sums.bytes - self._waiting_bytes)
        )
        cdef Py_ssize_t count = 0
        if over > self._sums.plain or over_bytes > self._sums.plain_bytes:
            return 0
        if self._sums.bulk:
            count = self._drop(&over, &over_bytes, BULK)
        count += self._drop(&over, &over_bytes, 0)
        self._dropped += count
        if count:
            self._merge_marks()
        return count

    def stop(self):
        """Free everything, for good. Calling it again does nothing."""
        self._free_all()
        self._stopped = True
        self._send_seq = self._next_seq
        self._first_slot = self._next_slot
        clear_sums(&self._sums)

    # --- ring memory

    cdef int _make_room(self, size_t count) except -1:
        """Make room for count entries behind the tail."""
        cdef size_t needed = self._tail - self._head + count
        cdef size_t capacity = self._capacity
        if needed <= capacity:
            return 0
        if capacity == 0:
            capacity = MIN_RING
        while capacity < needed:
            capacity *= 2
        if self._move_ring(capacity) < 0:
            raise MemoryError
        return 0

    cdef int _move_ring(self, size_t capacity) noexcept:
        """Move the entries to a ring of capacity; return -1, unchanged, where there is no memory."""
        cdef Entry *ring
        cdef size_t index = self._head
        if capacity > <size_t>SIZE_MAX // (4 * sizeof(Entry)):
            return -1
        ring = <Entry *>PyMem_Malloc(capacity * sizeof(Entry))
        if ring == NULL:
            return -1
        while index != self._tail:
            ring[index & (capacity - 1)] = self._ring[index & (self._capacity - 1)]
            index += 1
        PyMem_Free(self._ring)
        self._ring = ring
        self._capacity = capacity
        return 0

    cdef void _shrink_ring(self) noexcept:
        """Give memory back after a burst: at an eighth, down to twice of what is needed."""
        cdef size_t entries = self._tail - self._head
        cdef size_t capacity = MIN_RING
        if self._capacity <= KEPT_RING or entries > self._capacity // 8:
            return
        while capacity < 2 * entries:
            capacity *= 2
        self._move_ring(capacity)  # the old ring is good, too

    # --- messages in

    cdef Py_ssize_t _room(self) noexcept:
        """Return how many messages append takes by count; below 0 past the cap."""
        return (
            self.max_queue_size
            - self.reserved
            - self._waiting_messages
            - <Py_ssize_t>(self._tail - self._head - self._marks)
        )

    cdef int _refuse(self, Py_ssize_t count) except -1:
        if count == 0:
            return 0
        self._refused += count
        raise QueueFull("the session's queue is full")

    cdef void _commit(self, size_t count, const Sums *sums) noexcept:
        """Make the count entries behind the tail a part of the ring."""
        self._tail += count
        self._next_seq += count
        self._sums.bytes += sums.bytes
        self._sums.plain += sums.plain
        self._sums.plain_bytes += sums.plain_bytes
        self._sums.bulk += sums.bulk
        if sums.next_expiry < self._sums.next_expiry:
            self._sums.next_expiry = sums.next_expiry

    cdef int _fill_early(self, uint64_t slot, object fast, Py_ssize_t count) except -1:
        """Put a slot's messages on the heap."""
        cdef Waiting *heap
        cdef Bundle *bundle = NULL
        cdef size_t capacity
        cdef size_t place
        cdef size_t parent
        if self._heap_size == self._heap_capacity:
            capacity = 2 * self._heap_capacity if self._heap_capacity else MIN_SLOTS
            heap = <Waiting *>PyMem_Realloc(self._heap, capacity * sizeof(Waiting))
            if heap == NULL:
                raise MemoryError
            self._heap = heap
            self._heap_capacity = capacity
        if count:
            bundle = new_bundle(count)
            if bundle == NULL:
                raise MemoryError
            try:
                read_messages(
                    fast, entries_of(bundle), 0, SIZE_MAX, 0, KEEP, &bundle.sums
                )
            except:
                PyMem_Free(bundle)
                raise
            bundle.count = count
            self._waiting_messages += count
            self._waiting_bytes += bundle.sums.bytes
        place = self._heap_size
        self._heap_size += 1
        while place:
            parent = (place - 1) // 2
            if self._heap[parent].slot < slot:
                break
            self._heap[place] = self._heap[parent]
            place = parent
        self._heap[place].slot = slot
        self._heap[place].bundle = bundle
        self._filled[slot & (self._slot_capacity - 1)] = 1
        self._filled_slots += 1
        return 0

    cdef Py_ssize_t _release_waiting(self) noexcept:
        """Move the bundles whose turn it is from the heap to the ring, which has room for them."""
        cdef Py_ssize_t released = 0
        cdef Bundle *bundle
        cdef Waiting moving
        cdef Py_ssize_t n
        cdef size_t place
        cdef size_t child
        while self._heap_size and self._heap[0].slot == self._first_slot:
            bundle = self._heap[0].bundle
            self._first_slot += 1
            self._heap_size -= 1
            moving = self._heap[self._heap_size]
            place = 0
            while 2 * place + 1 < self._heap_size:
                child = 2 * place + 1
                if (
                    child + 1 < self._heap_size
                    and self._heap[child + 1].slot < self._heap[child].slot
                ):
                    child += 1
                if moving.slot < self._heap[child].slot:
                    break
                self._heap[place] = self._heap[child]
                place = child
            self._heap[place] = moving
            if bundle == NULL:
                continue
            for n in range(bundle.count):
                entries_of(bundle)[n].seq = self._next_seq + n
                self._ring[(self._tail + n) & (self._capacity - 1)] = entries_of(bundle)[n]
            self._commit(bundle.count, &bundle.sums)
            self._waiting_messages -= bundle.count
            self._waiting_bytes -= bundle.sums.bytes
            released += bundle.count
            PyMem_Free(bundle)
        if self._heap_size == 0 and self._heap_capacity > KEPT_RING:
            PyMem_Free(self._heap)
            self._heap = NULL
            self._heap_capacity = 0
        return released

    # --- messages out

    cdef size_t _run_end(self, size_t index) noexcept:
        """Return the index of the last of the neighbouring marks that start at index."""
        while (
            index + 1 != self._tail
            and self._ring[(index + 1) & (self._capacity - 1)].body == NULL
        ):
            index += 1
        return index

    cdef void _forget(self, Entry *entry) noexcept:
        """Let go of a message's body and take it out of the sums."""
        cdef PyObject *body = entry.body
        cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
        self._sums.bytes -= size
        if not entry.flags & KEEP:
            self._sums.plain -= 1
            self._sums.plain_bytes -= size
            if entry.flags & BULK:
                self._sums.bulk -= 1
        entry.body = NULL
        Py_DECREF(body)

    cdef void _mark(self, Entry *entry, uint8_t reason) noexcept:
        self._forget(entry)
        entry.reason = reason
        self._marks += 1

    cdef Py_ssize_t _drop(
        self, Py_ssize_t *over, Py_ssize_t *over_bytes, uint8_t flags
    ) noexcept:
        """Mark the oldest plain messages that have the flags until nothing is over; count them."""
        cdef Py_ssize_t count = 0
        cdef size_t index = self._head
        cdef Entry *entry
        while (over[0] > 0 or over_bytes[0] > 0) and index != self._tail:
            entry = &self._ring[index & (self._capacity - 1)]
            if entry.body != NULL and entry.flags & (KEEP | flags) == flags:
                over[0] -= 1
                over_bytes[0] -= PyBytes_GET_SIZE(entry.body)
                self._mark(entry, REASON_OVERFLOW)
                count += 1
            index += 1
        return count

    cdef void _merge_marks(self) noexcept:
        """Keep the marks fewer than the messages and a few, so that they cost no memory."""
        cdef size_t mask = self._capacity - 1
        cdef size_t index
        cdef size_t kept
        # The oldest ones merge at no cost; this is all where drop_oldest works again and again.
        while (
            self._tail - self._head > 1
            and self._ring[self._head & mask].body == NULL
            and self._ring[(self._head + 1) & mask].body == NULL
        ):
            self._head += 1
            self._marks -= 1
        if self._tail - self._head - self._marks + SPARE_MARKS < self._marks:
            index = kept = self._head
            while index != self._tail:
                if self._ring[index & mask].body == NULL:
                    index = self._run_end(index)
                self._ring[kept & mask] = self._ring[index & mask]
                index += 1
                kept += 1
            self._marks -= self._tail - kept
            self._tail = kept
        self._send = self._find(self._send_seq)
        self._shrink_ring()

    cdef size_t _find(self, uint64_t seq) noexcept:
        """Return the index of the first entry whose seq is not below seq."""
        cdef size_t low = 0
        cdef size_t high = self._tail - self._head
        cdef size_t middle
        while low < high:
            middle = (low + high) // 2
            if self._ring[(self._head + middle) & (self._capacity - 1)].seq < seq:
                low = middle + 1
            else:
                high = middle
        return self._head + low

    cdef void _free_all(self) noexcept:
        """Free the C memory and every body in it."""
        cdef Bundle *bundle
        cdef size_t n
        let_go(self._ring, self._head, self._capacity - 1, self._tail - self._head)
        for n in range(self._heap_size):
            bundle = self._heap[n].bundle
            if bundle != NULL:
                let_go(entries_of(bundle), 0, SIZE_MAX, bundle.count)
                PyMem_Free(bundle)
        PyMem_Free(self._ring)
        PyMem_Free(self._heap)
        PyMem_Free(self._filled)
        self._ring = NULL
        self._heap = NULL
        self._filled = NULL
        self._capacity = self._head = self._tail = self._send = self._marks = 0
        self._heap_capacity = self._heap_size = self._slot_capacity = 0
        self._waiting_messages = self._waiting_bytes = 0

    # --- for tests

    def _check(self):
        """Raise AssertionError where an invariant does not hold."""
        cdef Sums sums
        cdef size_t index
        cdef size_t marks = 0
        cdef uint64_t seq = self._acked_seq
        cdef size_t entries = self._tail - self._head
        cdef Entry *entry
        cdef uint8_t plain
        assert self._acked_seq < self._next_seq
        assert self._sent_seq < self._next_seq
        assert self._send_seq <= self._next_seq
        assert self._appended + self._released == self._next_seq - 1
        assert self._replayed <= self._taken
        if self._stopped:
            assert self._ring == NULL and self._heap == NULL and self._filled == NULL
            assert len(self) == 0 and self.unsent == 0 and self.queued_bytes == 0
            assert self.open_slots == 0 and self.waiting_slots == 0
            return
        assert self._capacity & (self._capacity - 1) == 0
        assert (self._ring == NULL) == (self._capacity == 0)
        assert entries <= self._capacity
        assert self._acked_seq < self._send_seq
        clear_sums(&sums)
        for index in range(entries):
            entry = &self._ring[(self._head + index) & (self._capacity - 1)]
            assert entry.seq > seq
            if entry.body == NULL:
                assert entry.reason != 0
                marks += 1
            else:
                assert entry.seq == seq + 1 and entry.reason == 0
                assert PyBytes_CheckExact(entry.body) and (<object>entry.body) is not None
                plain = not entry.flags & KEEP
                assert plain or entry.expires_at == 0
                sums.bytes += PyBytes_GET_SIZE(entry.body)
                sums.plain += plain
                sums.plain_bytes += plain * PyBytes_GET_SIZE(entry.body)
                sums.bulk += plain and entry.flags & BULK != 0
                if entry.expires_at > 0:
                    sums.next_expiry = min(sums.next_expiry, entry.expires_at)
            assert (self._head + index < self._send) == (entry.seq < self._send_seq)
            seq = entry.seq
        assert seq == self._next_seq - 1
        assert self._head <= self._send <= self._tail
        assert marks == self._marks <= entries - marks + SPARE_MARKS
        assert sums.bytes == self._sums.bytes
        assert sums.plain == self._sums.plain and sums.bulk == self._sums.bulk
        assert sums.plain_bytes == self._sums.plain_bytes
        assert self._sums.next_expiry <= sums.next_expiry
        assert self._acked + self._expired + self._dropped + len(self) == self._next_seq - 1
        self._check_slots()

    cdef int _check_slots(self) except -1:
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t messages = 0
        cdef Bundle *bundle
        cdef uint64_t slot
        cdef size_t filled = 0
        cdef size_t n
        assert 0 < self._first_slot <= self._next_slot
        assert self._slot_capacity & (self._slot_capacity - 1) == 0
        assert self._next_slot - self._first_slot <= self._slot_capacity or self.open_slots == 0
        for slot in range(self._first_slot, self._next_slot):
            filled += self._filled[slot & (self._slot_capacity - 1)]
        assert filled == self._heap_size <= self._heap_capacity
        for n in range(self._heap_size):
            slot = self._heap[n].slot
            assert self._first_slot < slot < self._next_slot
            assert self._filled[slot & (self._slot_capacity - 1)] == 1
            assert n == 0 or self._heap[(n - 1) // 2].slot < slot
            bundle = self._heap[n].bundle
            if bundle != NULL:
                assert bundle.count > 0
                messages += bundle.count
                size += bundle.sums.bytes
        assert messages == self._waiting_messages
        assert size == self._waiting_bytes
        return 0
