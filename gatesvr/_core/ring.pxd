"""A queue's sent ring: every message with a seq and without an ack, oldest first (DESIGN D5).

A message removed from the middle leaves a *mark*: an entry without a body. A mark stands for every
seq above the entry before it, up to its own, so neighbouring marks merge by dropping one.
"""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport SIZE_MAX, uint8_t, uint64_t

from gatesvr._core.entry cimport (
    FLAG_BULK, FLAG_KEEP, Bundle, Entry, Py_DECREF, PyBytes_CheckExact, PyBytes_GET_SIZE, Sums,
    clear_sums, entries_of, let_go,
)

cdef enum:
    MIN_RING = 16  # entries: a batch of 16 in 512 bytes
    KEPT_RING = 64  # entries: a ring up to this size is never shrunk
    SPARE_MARKS = 16  # marks above one a message that may stay unmerged

cdef struct Ring:
    uint64_t next_seq  # given to the next message; the first is 1
    uint64_t acked_seq  # highest ack; the entries cover the seqs between it and next_seq
    Entry *entries  # entry i, head <= i < tail, lies at [i & (capacity - 1)]
    size_t capacity  # entries; 0 or a power of two
    size_t head  # index of the oldest entry; indices only rise
    size_t tail  # index behind the newest entry
    size_t marks  # entries that are marks
    Sums sums  # over the messages; next_expiry may be too low


cdef inline Py_ssize_t live(const Ring *ring) noexcept:
    """Return the number of messages in the ring, without marks."""
    return ring.tail - ring.head - ring.marks


cdef inline Entry *at(const Ring *ring, size_t index) noexcept:
    return &ring.entries[index & (ring.capacity - 1)]


cdef inline int move_ring(Ring *ring, size_t capacity) noexcept:
    """Move the entries to another block; without memory, return -1 and change nothing."""
    cdef Entry *entries
    cdef size_t index = ring.head
    if capacity > <size_t>SIZE_MAX // (4 * sizeof(Entry)):
        return -1
    entries = <Entry *>PyMem_Malloc(capacity * sizeof(Entry))
    if entries == NULL:
        return -1
    while index != ring.tail:
        entries[index & (capacity - 1)] = at(ring, index)[0]
        index += 1
    PyMem_Free(ring.entries)
    ring.entries = entries
    ring.capacity = capacity
    return 0


cdef inline int make_room(Ring *ring, size_t count) except -1:
    """Make room for count entries behind the tail."""
    cdef size_t needed = ring.tail - ring.head + count
    cdef size_t capacity = ring.capacity if ring.capacity else MIN_RING
    if needed <= ring.capacity:
        return 0
    while capacity < needed:
        capacity *= 2
    if move_ring(ring, capacity) < 0:
        raise MemoryError
    return 0


cdef inline void shrink_ring(Ring *ring) noexcept:
    """Give memory back after a burst: when at most an eighth is used, keep twice the need."""
    cdef size_t entries = ring.tail - ring.head
    cdef size_t capacity = MIN_RING
    if ring.capacity <= KEPT_RING or entries > ring.capacity // 8:
        return
    while capacity < 2 * entries:
        capacity *= 2
    move_ring(ring, capacity)  # on failure the old block still serves


cdef inline void free_ring(Ring *ring) noexcept:
    """Release every message and all memory; the seqs stay."""
    let_go(ring.entries, ring.head, ring.capacity - 1, ring.tail - ring.head)
    PyMem_Free(ring.entries)
    ring.entries = NULL
    ring.capacity = ring.head = ring.tail = ring.marks = 0
    clear_sums(&ring.sums)


cdef inline void commit(Ring *ring, size_t count, const Sums *sums) noexcept:
    """Add the count entries already written behind the tail to the ring."""
    ring.tail += count
    ring.next_seq += count
    ring.sums.bytes += sums.bytes
    ring.sums.plain += sums.plain
    ring.sums.plain_bytes += sums.plain_bytes
    ring.sums.bulk += sums.bulk
    ring.sums.bulk_bytes += sums.bulk_bytes
    if sums.next_expiry < ring.sums.next_expiry:
        ring.sums.next_expiry = sums.next_expiry


cdef inline void move_in(Ring *ring, Bundle *bundle) noexcept:
    """Release a bundle's messages into the ring, which has room; the bundle keeps only memory."""
    cdef Entry *entries = entries_of(bundle)
    cdef Py_ssize_t n
    for n in range(bundle.count):
        entries[n].seq = ring.next_seq + n
        at(ring, ring.tail + n)[0] = entries[n]
    commit(ring, bundle.count, &bundle.sums)


cdef inline size_t run_end(const Ring *ring, size_t index) noexcept:
    """Return the index of the last mark in the run of marks that starts at index."""
    while index + 1 != ring.tail and at(ring, index + 1).body == NULL:
        index += 1
    return index


cdef inline size_t find_seq(const Ring *ring, uint64_t seq) noexcept:
    """Return the index of the first entry whose seq is not below seq; O(log entries)."""
    cdef size_t low = ring.head
    cdef size_t high = ring.tail
    cdef size_t middle
    while low != high:
        middle = low + (high - low) // 2
        if at(ring, middle).seq < seq:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void forget(Ring *ring, Entry *entry) noexcept:
    """Release a message's body and take it out of the sums."""
    cdef PyObject *body = entry.body
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    ring.sums.bytes -= size
    if not entry.flags & FLAG_KEEP:
        ring.sums.plain -= 1
        ring.sums.plain_bytes -= size
        if entry.flags & FLAG_BULK:
            ring.sums.bulk -= 1
            ring.sums.bulk_bytes -= size
    entry.body = NULL
    Py_DECREF(body)


cdef inline Py_ssize_t pop_up_to(Ring *ring, uint64_t seq) noexcept:
    """Remove every entry up to seq, which becomes the ack; return how many were messages."""
    cdef Py_ssize_t count = 0
    cdef Entry *entry
    while ring.head != ring.tail:
        entry = at(ring, ring.head)
        if entry.seq > seq:
            break
        if entry.body != NULL:
            forget(ring, entry)
            count += 1
        else:
            ring.marks -= 1
        ring.head += 1
    ring.acked_seq = seq
    if ring.sums.plain == 0:
        ring.sums.next_expiry = INFINITY
    shrink_ring(ring)
    return count


cdef inline void mark(Ring *ring, Entry *entry, uint8_t reason) noexcept:
    """Put a mark in a message's place; call merge_marks once all marks are made."""
    forget(ring, entry)
    entry.reason = reason
    ring.marks += 1


cdef inline Py_ssize_t mark_expired(Ring *ring, double now, uint8_t reason) noexcept:
    """Mark the messages whose expires_at is not after now; return how many."""
    cdef double next_expiry = INFINITY
    cdef Py_ssize_t count = 0
    cdef size_t index = ring.head
    cdef Entry *entry
    while index != ring.tail:
        entry = at(ring, index)
        if entry.body != NULL and entry.expires_at > 0:
            if entry.expires_at <= now:
                mark(ring, entry, reason)
                count += 1
            elif entry.expires_at < next_expiry:
                next_expiry = entry.expires_at
        index += 1
    ring.sums.next_expiry = next_expiry
    return count


cdef inline Py_ssize_t mark_oldest(
    Ring *ring, Py_ssize_t *over, Py_ssize_t *over_bytes, uint8_t flags, uint8_t reason
) noexcept:
    """Mark the oldest plain messages with these flags until neither count is above 0."""
    cdef Py_ssize_t count = 0
    cdef size_t index = ring.head
    cdef Entry *entry
    while (over[0] > 0 or over_bytes[0] > 0) and index != ring.tail:
        entry = at(ring, index)
        if entry.body != NULL and entry.flags & (FLAG_KEEP | flags) == flags:
            over[0] -= 1
            over_bytes[0] -= PyBytes_GET_SIZE(entry.body)
            mark(ring, entry, reason)
            count += 1
        index += 1
    return count


cdef inline void merge_marks(Ring *ring) noexcept:
    """Merge marks down to at most one a message and SPARE_MARKS, to bound their memory."""
    cdef size_t index
    cdef size_t kept
    # The oldest ones merge for free; that suffices while drop_oldest repeats.
    while (
        ring.tail - ring.head > 1
        and at(ring, ring.head).body == NULL
        and at(ring, ring.head + 1).body == NULL
    ):
        ring.head += 1
        ring.marks -= 1
    if ring.marks > <size_t>live(ring) + SPARE_MARKS:
        index = kept = ring.head
        while index != ring.tail:
            if at(ring, index).body == NULL:
                index = run_end(ring, index)
            at(ring, kept)[0] = at(ring, index)[0]
            index += 1
            kept += 1
        ring.marks -= ring.tail - kept
        ring.tail = kept
    shrink_ring(ring)


cdef inline int check_ring(const Ring *ring) except -1:
    """Raise AssertionError if an invariant does not hold."""
    cdef Sums sums
    cdef size_t index = ring.head
    cdef size_t marks = 0
    cdef uint64_t seq = ring.acked_seq
    cdef Entry *entry
    cdef Py_ssize_t size
    assert ring.acked_seq < ring.next_seq
    assert ring.capacity & (ring.capacity - 1) == 0
    assert (ring.entries == NULL) == (ring.capacity == 0)
    assert ring.tail - ring.head <= ring.capacity
    clear_sums(&sums)
    while index != ring.tail:
        entry = at(ring, index)
        assert entry.seq > seq
        if entry.body == NULL:
            assert entry.reason != 0
            marks += 1
        else:
            assert entry.seq == seq + 1 and entry.reason == 0
            assert PyBytes_CheckExact(entry.body)
            size = PyBytes_GET_SIZE(entry.body)
            sums.bytes += size
            if entry.flags & FLAG_KEEP:
                assert entry.expires_at == 0
            else:
                sums.plain += 1
                sums.plain_bytes += size
                if entry.flags & FLAG_BULK:
                    sums.bulk += 1
                    sums.bulk_bytes += size
            if entry.expires_at > 0:
                sums.next_expiry = min(sums.next_expiry, entry.expires_at)
        seq = entry.seq
        index += 1
    assert seq == ring.next_seq - 1
    assert marks == ring.marks and marks <= <size_t>live(ring) + SPARE_MARKS
    assert sums.bytes == ring.sums.bytes
    assert sums.plain == ring.sums.plain and sums.bulk == ring.sums.bulk
    assert sums.plain_bytes == ring.sums.plain_bytes
    assert sums.bulk_bytes == ring.sums.bulk_bytes
    assert ring.sums.next_expiry <= sums.next_expiry
    return 0
