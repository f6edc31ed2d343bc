"""Varints and the head of a ServerPush frame, shared by the queue and the codec.

A frame is a 4-byte big-endian length and that many bytes of protobuf (PROTOCOL 1.3). The protobuf
of a ServerPush is a *head* (fields 1 and 2: msg_id and seq_id, each left out if 0) and a *body*
(the other fields), so the frames of many sessions can share one body.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    MAX_HEAD_BYTES = 21  # 4 length, 1 + 5 msg_id, 1 + 10 seq_id


cdef inline int varint_size(uint64_t value) noexcept nogil:
    """Return the number of bytes that put_varint would write, 1 to 10."""
    cdef int size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline unsigned char *put_varint(unsigned char *out, uint64_t value) noexcept nogil:
    """Write value at out and return the position behind it."""
    while value >= 0x80:
        out[0] = <unsigned char>(value | 0x80)
        value >>= 7
        out += 1
    out[0] = <unsigned char>value
    return out + 1


cdef inline int head_size(uint32_t msg_id, uint64_t seq_id) noexcept nogil:
    """Return the number of bytes that put_head would write, with the 4 of the length."""
    cdef int size = 4
    if msg_id:
        size += 1 + varint_size(msg_id)
    if seq_id:
        size += 1 + varint_size(seq_id)
    return size


cdef inline unsigned char *put_head(
    unsigned char *out, uint32_t msg_id, uint64_t seq_id, uint32_t body_bytes
) noexcept nogil:
    """Write a frame's length, msg_id and seq_id at out (room: MAX_HEAD_BYTES); return the end."""
    cdef uint32_t length = head_size(msg_id, seq_id) - 4 + body_bytes
    out[0] = <unsigned char>(length >> 24)
    out[1] = <unsigned char>(length >> 16)
    out[2] = <unsigned char>(length >> 8)
    out[3] = <unsigned char>length
    out += 4
    if msg_id:
        out[0] = 0x08
        out = put_varint(out + 1, msg_id)
    if seq_id:
        out[0] = 0x10
        out = put_varint(out + 1, seq_id)
    return out
