"""The map of OrderedQueue: what it keeps, in which unit, and who owns it (DESIGN D5, D6).

Two structures in C memory. The *ring* holds every message that has a seq and is not acked, oldest
first; the *waiting heap* holds the bundles whose slot was filled before its turn. A message that
TTL or drop_oldest took out of the ring leaves a *mark*: an entry without a body. A mark stands for
every seq above the entry before it, up to its own, so neighbours merge by leaving one of them out.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cpdef enum:  # flags, for Python, too
    KEEP = 1  # answers and bundles: never expire, are never dropped
    BULK = 2  # broadcasts and multicasts: the first to be dropped

cdef enum:
    REASON_EXPIRED = 1  # LostReason of PROTOCOL 1
    REASON_OVERFLOW = 2

cdef struct Entry:  # 32 bytes
    uint64_t seq  # ascending; of a mark: the last seq that it stands for
    PyObject *body  # an exact bytes object, one reference owned by the entry; NULL: a mark
    double expires_at  # caller's seconds; 0: never (always of KEEP)
    uint32_t msg_id  # 0 of a notify
    uint8_t flags  # KEEP, BULK; a message without KEEP is *plain*
    uint8_t reason  # REASON_* of a mark

cdef struct Sums:  # over some messages
    Py_ssize_t bytes  # of bodies
    Py_ssize_t plain  # messages without KEEP, BULK ones included
    Py_ssize_t plain_bytes  # of their bodies
    Py_ssize_t bulk  # plain messages with BULK
    double next_expiry  # lowest expires_at of the plain ones; inf: none expires

cdef struct Bundle:  # one block: this head, then count entries whose seq is not set yet
    Sums sums
    Py_ssize_t count

cdef struct Waiting:  # one element of the heap
    uint64_t slot
    Bundle *bundle  # owned; NULL: a slot filled with nothing


cdef class OrderedQueue:
    # --- settings, the session's to change
    cdef public str session_id
    cdef public Py_ssize_t max_queue_size  # messages
    cdef public Py_ssize_t max_queue_bytes  # bytes of bodies
    cdef public Py_ssize_t reserved  # messages kept free for answers to come
    cdef public bint can_skip  # the peer knows SKIP

    # --- seqs (the first is 1)
    cdef uint64_t _next_seq  # given to the next message released
    cdef uint64_t _acked_seq  # highest ack; the ring covers (_acked_seq, _next_seq)
    cdef uint64_t _send_seq  # the next one that take() gives out
    cdef uint64_t _sent_seq  # highest one that take() ever gave out

    # --- ring: entry i lies at _ring[i & (_capacity - 1)], _head <= i < _tail
    cdef Entry *_ring  # NULL while _capacity is 0
    cdef size_t _capacity  # entries; 0 or a power of two
    cdef size_t _head  # index of the oldest entry; indices only rise and may wrap
    cdef size_t _tail  # index behind the newest entry
    cdef size_t _send  # index of the first entry with seq >= _send_seq
    cdef size_t _marks  # entries that are marks
    cdef Sums _sums  # over the ring's messages; next_expiry may be lower than the true one

    # --- slots (the first is 1)
    cdef uint64_t _first_slot  # lowest open slot
    cdef uint64_t _next_slot  # handed out by the next reserve()
    cdef uint8_t *_filled  # 1 at [slot & (_slot_capacity - 1)] where an open slot waits filled
    cdef size_t _slot_capacity  # bytes; 0 or a power of two
    cdef Waiting *_heap  # min-heap by slot
    cdef size_t _heap_size  # elements
    cdef size_t _heap_capacity  # elements
    cdef Py_ssize_t _waiting_messages
    cdef Py_ssize_t _waiting_bytes  # of their bodies

    # --- end and statistics
    cdef bint _stopped
    cdef uint64_t _appended  # messages that came by append
    cdef uint64_t _filled_slots  # slots filled
    cdef uint64_t _released  # messages that came out of slots
    cdef uint64_t _taken  # messages given out by take, again included
    cdef uint64_t _taken_bytes  # bytes of all frames given out
    cdef uint64_t _skips  # SKIP frames given out
    cdef uint64_t _replayed  # messages of _taken that were given out before
    cdef uint64_t _acked  # messages that left by an ack
    cdef uint64_t _expired  # messages that became marks by TTL
    cdef uint64_t _dropped  # messages that became marks by drop_oldest
    cdef uint64_t _refused  # messages that append refused

    # --- ring memory
    cdef int _make_room(self, size_t count) except -1
    cdef int _move_ring(self, size_t capacity) noexcept
    cdef void _shrink_ring(self) noexcept

    # --- messages in
    cdef Py_ssize_t _room(self) noexcept
    cdef int _refuse(self, Py_ssize_t count) except -1
    cdef void _commit(self, size_t count, const Sums *sums) noexcept
    cdef int _fill_early(self, uint64_t slot, object fast, Py_ssize_t count) except -1
    cdef Py_ssize_t _release_waiting(self) noexcept

    # --- messages out
    cdef size_t _run_end(self, size_t index) noexcept
    cdef void _forget(self, Entry *entry) noexcept
    cdef void _mark(self, Entry *entry, uint8_t reason) noexcept
    cdef Py_ssize_t _drop(
        self, Py_ssize_t *over, Py_ssize_t *over_bytes, uint8_t flags
    ) noexcept
    cdef void _merge_marks(self) noexcept
    cdef size_t _find(self, uint64_t seq) noexcept
    cdef void _free_all(self) noexcept

    # --- for tests
    cdef int _check_slots(self) except -1
