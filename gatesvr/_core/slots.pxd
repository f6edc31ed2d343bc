"""The open slots of a queue, and the min-heap of those filled before their turn (DESIGN D5)."""
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport uint8_t, uint64_t

from gatesvr._core.entry cimport Bundle, Entry, free_bundle

cdef enum:
    MIN_SLOTS = 16
    KEPT_SLOTS = 64  # arrays up to this size stay when no slot is open

cdef struct Waiting:  # one element of the heap
    uint64_t slot
    Bundle *bundle  # owned; NULL: a slot filled with nothing

cdef struct Slots:
    uint64_t first  # lowest open slot; the first is 1
    uint64_t next  # next slot to hand out
    uint8_t *filled  # 1 at [slot & (capacity - 1)] where an open slot waits filled
    size_t capacity  # bytes of filled; 0 or a power of two
    Waiting *heap  # by slot
    size_t waiting  # elements of heap
    size_t heap_capacity  # elements
    Py_ssize_t messages  # in all bundles
    Py_ssize_t bytes  # of their bodies


cdef inline uint64_t reserve_slot(Slots *slots) except 0:
    """Open the next slot."""
    cdef size_t capacity
    cdef uint8_t *filled
    cdef uint64_t slot
    if slots.next - slots.first == slots.capacity:
        capacity = 2 * slots.capacity if slots.capacity else MIN_SLOTS
        filled = <uint8_t *>PyMem_Malloc(capacity)
        if filled == NULL:
            raise MemoryError
        slot = slots.first
        while slot != slots.next:
            filled[slot & (capacity - 1)] = slots.filled[slot & (slots.capacity - 1)]
            slot += 1
        PyMem_Free(slots.filled)
        slots.filled = filled
        slots.capacity = capacity
    slot = slots.next
    slots.filled[slot & (slots.capacity - 1)] = 0
    slots.next += 1
    return slot


cdef inline bint is_open(Slots *slots, uint64_t slot) noexcept:
    return slots.first <= slot < slots.next


cdef inline bint is_filled(Slots *slots, uint64_t slot) noexcept:
    """Return whether an open slot is filled and waiting."""
    return slots.filled[slot & (slots.capacity - 1)]


cdef inline int make_heap_room(Slots *slots) except -1:
    """Make room for one more element, so that push_waiting cannot fail."""
    cdef size_t capacity
    cdef Waiting *heap
    if slots.waiting == slots.heap_capacity:
        capacity = 2 * slots.heap_capacity if slots.heap_capacity else MIN_SLOTS
        heap = <Waiting *>PyMem_Realloc(slots.heap, capacity * sizeof(Waiting))
        if heap == NULL:
            raise MemoryError
        slots.heap = heap
        slots.heap_capacity = capacity
    return 0


cdef inline void push_waiting(Slots *slots, uint64_t slot, Bundle *bundle) noexcept:
    """Keep bundle until its slot's turn; call make_heap_room first."""
    cdef size_t place = slots.waiting
    cdef size_t parent
    slots.waiting += 1
    while place:
        parent = (place - 1) // 2
        if slots.heap[parent].slot < slot:
            break
        slots.heap[place] = slots.heap[parent]
        place = parent
    slots.heap[place].slot = slot
    slots.heap[place].bundle = bundle
    slots.filled[slot & (slots.capacity - 1)] = 1
    if bundle != NULL:
        slots.messages += bundle.count
        slots.bytes += bundle.sums.bytes


cdef inline Bundle *pop_waiting(Slots *slots) noexcept:
    """Take the lowest bundle off the heap, which must not be empty; the caller owns it."""
    cdef Bundle *bundle = slots.heap[0].bundle
    cdef Waiting moving
    cdef size_t place = 0
    cdef size_t child
    slots.waiting -= 1
    moving = slots.heap[slots.waiting]
    while 2 * place + 1 < slots.waiting:
        child = 2 * place + 1
        if child + 1 < slots.waiting and slots.heap[child + 1].slot < slots.heap[child].slot:
            child += 1
        if moving.slot < slots.heap[child].slot:
            break
        slots.heap[place] = slots.heap[child]
        place = child
    slots.heap[place] = moving
    if bundle != NULL:
        slots.messages -= bundle.count
        slots.bytes -= bundle.sums.bytes
    return bundle


cdef inline void free_slots(Slots *slots) noexcept:
    """Free every waiting bundle and all memory; no slot is open afterwards."""
    cdef size_t n
    for n in range(slots.waiting):
        free_bundle(slots.heap[n].bundle)
    PyMem_Free(slots.heap)
    PyMem_Free(slots.filled)
    slots.heap = NULL
    slots.filled = NULL
    slots.capacity = slots.heap_capacity = slots.waiting = 0
    slots.messages = slots.bytes = 0
    slots.first = slots.next


cdef inline void shrink_slots(Slots *slots) noexcept:
    """Give memory back once no slot is open after a burst."""
    if slots.first == slots.next and (
        slots.capacity > KEPT_SLOTS or slots.heap_capacity > KEPT_SLOTS
    ):
        free_slots(slots)


cdef inline size_t slots_memory(Slots *slots) noexcept:
    """Return the bytes of C memory of the slots and waiting bundles, without bodies."""
    cdef size_t size = slots.capacity + slots.heap_capacity * sizeof(Waiting)
    cdef size_t n
    for n in range(slots.waiting):
        if slots.heap[n].bundle != NULL:
            size += sizeof(Bundle) + slots.heap[n].bundle.count * sizeof(Entry)
    return size


cdef inline int check_slots(Slots *slots) except -1:
    """Raise AssertionError if an invariant does not hold."""
    cdef Py_ssize_t messages = 0
    cdef Py_ssize_t size = 0
    cdef Bundle *bundle
    cdef uint64_t slot
    cdef size_t filled = 0
    cdef size_t n
    assert 0 < slots.first <= slots.next
    assert slots.capacity & (slots.capacity - 1) == 0
    assert slots.next - slots.first <= slots.capacity
    slot = slots.first
    while slot != slots.next:
        filled += slots.filled[slot & (slots.capacity - 1)]
        slot += 1
    assert filled == slots.waiting <= slots.heap_capacity
    for n in range(slots.waiting):
        slot = slots.heap[n].slot
        assert slots.first < slot < slots.next
        assert slots.filled[slot & (slots.capacity - 1)] == 1
        assert n == 0 or slots.heap[(n - 1) // 2].slot < slot
        bundle = slots.heap[n].bundle
        if bundle != NULL:
            assert bundle.count > 0
            messages += bundle.count
            size += bundle.sums.bytes
    assert messages == slots.messages and size == slots.bytes
    return 0
