"""HTTP/2 frames: their numbers, and reading and writing them (RFC 9113 4, 6)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from gatesvr._core.buffer cimport Buffer, append, extend

cdef enum:
    HEAD_BYTES = 9  # of a frame
    MAX_FRAME_BYTES = 16_384  # of a payload: the default, and what we take
    LAST_FRAME_BYTES = 16_777_215  # the highest MAX_FRAME_SIZE
    MAX_WINDOW = 0x7FFFFFFF
    MAX_STREAM_ID = 0x7FFFFFFF
    PING_BYTES = 8  # of a PING's payload

cdef enum:  # types
    DATA_FRAME = 0
    HEADERS_FRAME = 1
    PRIORITY_FRAME = 2
    RST_STREAM_FRAME = 3
    SETTINGS_FRAME = 4
    PUSH_PROMISE_FRAME = 5
    PING_FRAME = 6
    GOAWAY_FRAME = 7
    WINDOW_UPDATE_FRAME = 8
    CONTINUATION_FRAME = 9

cdef enum:  # flags
    END_STREAM = 0x01
    ACK = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08
    PRIORITY = 0x20

cdef enum:  # settings
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6

cdef struct Frame:
    const unsigned char *data  # the payload, later without padding
    uint32_t size  # bytes of data
    uint32_t length  # bytes of the payload as sent
    uint32_t stream
    uint8_t type
    uint8_t flags


cdef inline uint16_t get_16(const unsigned char *at) noexcept nogil:
    return <uint16_t>(<uint32_t>at[0] << 8 | at[1])


cdef inline uint32_t get_24(const unsigned char *at) noexcept nogil:
    return <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2]


cdef inline uint32_t get_32(const unsigned char *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | get_24(at + 1)


cdef inline unsigned char *put_16(unsigned char *out, uint32_t value) noexcept nogil:
    out[0] = <unsigned char>(value >> 8)
    out[1] = <unsigned char>value
    return out + 2


cdef inline unsigned char *put_32(unsigned char *out, uint32_t value) noexcept nogil:
    return put_16(put_16(out, value >> 16), value)


cdef inline unsigned char *put_head(
    unsigned char *out, uint32_t length, uint8_t kind, uint8_t flags, uint32_t stream
) noexcept nogil:
    """Write the head of a frame; return the place of its payload."""
    out[0] = <unsigned char>(length >> 16)
    out = put_16(out + 1, length)
    out[0] = kind
    out[1] = flags
    return put_32(out + 2, stream)


cdef inline void read_head(Frame *frame, const unsigned char *at) noexcept nogil:
    """Read a frame whose head, and payload if it is used, lie at a place."""
    frame.length = frame.size = get_24(at)
    frame.type = at[3]
    frame.flags = at[4]
    frame.stream = get_32(at + 5) & MAX_STREAM_ID
    frame.data = at + HEAD_BYTES


cdef inline bint strip_padding(Frame *frame) noexcept nogil:
    """Leave the padding out of data; return whether it fits the payload."""
    cdef uint32_t padding
    if frame.flags & PADDED:
        if frame.size == 0:
            return False
        padding = frame.data[0]
        if padding >= frame.size:
            return False
        frame.data += 1
        frame.size -= 1 + padding
    return True


cdef inline bint strip_priority(Frame *frame) noexcept nogil:
    """Leave the priority fields of HEADERS out of data; return whether they are whole."""
    if frame.flags & PRIORITY:
        if frame.size < 5:
            return False
        frame.data += 5
        frame.size -= 5
    return True


cdef inline int append_number(
    Buffer *out, uint8_t kind, uint32_t stream, uint32_t value
) except -1:
    """Write a RST_STREAM or WINDOW_UPDATE."""
    put_32(put_head(extend(out, HEAD_BYTES + 4), 4, kind, 0, stream), value)
    return 0


cdef inline int append_ping(Buffer *out, const unsigned char *data, uint8_t flags) except -1:
    memcpy(
        put_head(extend(out, HEAD_BYTES + PING_BYTES), PING_BYTES, PING_FRAME, flags, 0), data,
        PING_BYTES)
    return 0


cdef inline int append_goaway(
    Buffer *out, uint32_t code, const unsigned char *text, uint32_t size
) except -1:
    """Write GOAWAY; its last stream id is 0: a client's peer opens none."""
    cdef unsigned char *place = extend(out, HEAD_BYTES + 8 + size)
    place = put_head(place, 8 + size, GOAWAY_FRAME, 0, 0)
    memcpy(put_32(put_32(place, 0), code), text, size)
    return 0


cdef inline int append_preface(
    Buffer *out, uint32_t table_bytes, uint32_t window, uint32_t list_bytes
) except -1:
    """Write what a client sends first (RFC 9113 3.4)."""
    cdef unsigned char *place
    append(out, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24)
    place = put_head(extend(out, HEAD_BYTES + 24), 24, SETTINGS_FRAME, 0, 0)
    place = put_32(put_16(place, HEADER_TABLE_SIZE), table_bytes)
    place = put_32(put_16(place, ENABLE_PUSH), 0)
    place = put_32(put_16(place, INITIAL_WINDOW_SIZE), window)
    put_32(put_16(place, MAX_HEADER_LIST_SIZE), list_bytes)
    return 0
