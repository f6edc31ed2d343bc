"""A growable buffer of bytes: written at its end, read from its front."""
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    MIN_BUFFER = 256  # bytes of the first allocation
    KEPT_BUFFER = 64 << 10  # bytes: an empty buffer up to this size keeps its memory

cdef struct Buffer:
    unsigned char *data  # owned, or NULL
    size_t capacity
    size_t start  # read up to here
    size_t end  # written up to here


cdef inline size_t size_of(const Buffer *buffer) noexcept:
    """Return the number of bytes written and not read."""
    return buffer.end - buffer.start


cdef inline const unsigned char *front_of(const Buffer *buffer) noexcept:
    return buffer.data + buffer.start


cdef inline int grow(Buffer *buffer, size_t more) except -1:
    """Make room behind the end: move what is unread to the front, allocate more, or both.

    Half of the memory is free afterwards, so bytes are moved once on average. Sizes are far below
    SIZE_MAX.
    """
    cdef size_t size = buffer.end - buffer.start
    cdef size_t capacity = max(2 * buffer.capacity, 2 * size + more, <size_t>MIN_BUFFER)
    cdef unsigned char *data
    if 2 * size + more > buffer.capacity:
        data = <unsigned char *>realloc(buffer.data, capacity)
        if data == NULL:
            raise MemoryError
        buffer.data = data
        buffer.capacity = capacity
    if buffer.start:
        memmove(buffer.data, buffer.data + buffer.start, size)
        buffer.start = 0
        buffer.end = size
    return 0


cdef inline unsigned char *extend(Buffer *buffer, size_t size) except NULL:
    """Return the place for size more bytes, which the caller writes; size is not 0."""
    if buffer.capacity - buffer.end < size:
        grow(buffer, size)
    buffer.end += size
    return buffer.data + buffer.end - size


cdef inline int append(Buffer *buffer, const void *data, size_t size) except -1:
    if size:
        memcpy(extend(buffer, size), data, size)
    return 0


cdef inline void free_buffer(Buffer *buffer) noexcept:
    free(buffer.data)
    buffer.data = NULL
    buffer.capacity = buffer.start = buffer.end = 0


cdef inline void clear(Buffer *buffer) noexcept:
    """Empty the buffer; its memory stays, unless a burst made it large."""
    if buffer.capacity > KEPT_BUFFER:
        free_buffer(buffer)
    else:
        buffer.start = buffer.end = 0
