"""The client protocol's two envelopes, and the upstream's request (PROTOCOL 1, 7.1, 7.2).

Places count from the start of the message that holds them: the envelope, or its payload.
"""
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy

from gatesvr._core.reader cimport (
    BAD_TEXT, END, FIELD, Cursor, Map, Span, is_utf8, next_field, note_entry, open_cursor)
from gatesvr._core.writer cimport (
    new_bytes, number_size, optional_size, put_map, put_number, put_text, start_of)

cdef struct Envelope:  # a ClientRequest or a ServerPush: the same fields except openid
    uint64_t seq_id
    uint64_t number  # field 10: ack_seq_id or client_seq_id
    uint32_t msg_id
    int32_t type
    Span payload
    Map headers

cdef struct Business:  # a BusinessRequest
    Span action
    Span data
    Map params

cdef struct Response:  # a BusinessResponse
    int32_t code
    Span message
    Span data


cdef inline int read_envelope(
    Envelope *envelope, const unsigned char *message, uint32_t length, bint is_request
) noexcept nogil:
    """Read a ClientRequest or ServerPush into a zeroed struct; return END, CORRUPT or BAD_TEXT."""
    cdef Cursor cursor
    cdef int found
    open_cursor(&cursor, message, length)
    while True:
        found = next_field(&cursor)
        if found != FIELD:
            return found
        if cursor.tag == 0x08:
            envelope.msg_id = <uint32_t>cursor.value
        elif cursor.tag == 0x10:
            envelope.seq_id = cursor.value
        elif cursor.tag == 0x18:
            envelope.type = <int32_t>cursor.value
        elif cursor.tag == 0x22:
            envelope.payload.at = <uint32_t>(cursor.data - message)
            envelope.payload.size = cursor.size
        elif cursor.tag == 0x2A:
            found = note_entry(&envelope.headers, message, &cursor, is_request)
            if found != END:
                return found
        elif cursor.tag == 0x32:
            if is_request and not is_utf8(cursor.data, cursor.size):
                return BAD_TEXT
        elif cursor.tag == 0x50:
            envelope.number = cursor.value


cdef inline int read_business(
    Business *business, const unsigned char *payload, uint32_t size
) noexcept nogil:
    """Read a BusinessRequest into a zeroed struct; return END, CORRUPT or BAD_TEXT."""
    cdef Cursor cursor
    cdef int found
    open_cursor(&cursor, payload, size)
    while True:
        found = next_field(&cursor)
        if found != FIELD:
            return found
        if cursor.tag == 0x0A:
            if not is_utf8(cursor.data, cursor.size):
                return BAD_TEXT
            business.action.at = <uint32_t>(cursor.data - payload)
            business.action.size = cursor.size
        elif cursor.tag == 0x12:
            found = note_entry(&business.params, payload, &cursor, False)
            if found != END:
                return found
        elif cursor.tag == 0x1A:
            business.data.at = <uint32_t>(cursor.data - payload)
            business.data.size = cursor.size


cdef inline int read_response(
    Response *response, const unsigned char *payload, uint32_t size
) noexcept nogil:
    """Read a BusinessResponse into a zeroed struct; return END, CORRUPT or BAD_TEXT."""
    cdef Cursor cursor
    cdef int found
    open_cursor(&cursor, payload, size)
    while True:
        found = next_field(&cursor)
        if found != FIELD:
            return found
        if cursor.tag == 0x08:
            response.code = <int32_t>cursor.value
        elif cursor.tag == 0x12:
            if not is_utf8(cursor.data, cursor.size):
                return BAD_TEXT
            response.message.at = <uint32_t>(cursor.data - payload)
            response.message.size = cursor.size
        elif cursor.tag == 0x1A:
            response.data.at = <uint32_t>(cursor.data - payload)
            response.data.size = cursor.size


cdef inline bytes write_upstream(
    const unsigned char *message, Envelope *envelope, Business *business, bytes identity,
    uint64_t client_seq_id, uint64_t request_id, uint32_t timeout_ms, bytes peer
):
    """Return a good BUSINESS request as an UpstreamRequest.

    The gateway's own fields follow the copied ones, so they win if a field appears twice.
    """
    cdef const unsigned char *payload = message + envelope.payload.at
    cdef uint64_t size = (
        optional_size(business.action.size) + business.params.encoded_bytes
        + optional_size(business.data.size) + envelope.headers.encoded_bytes
        + PyBytes_GET_SIZE(identity) + number_size(client_seq_id) + number_size(request_id)
        + number_size(timeout_ms) + optional_size(PyBytes_GET_SIZE(peer)))
    cdef unsigned char *out
    cdef bytes result
    result = new_bytes(size)
    out = start_of(result)
    if business.action.size:
        out = put_text(out, 0x1A, payload + business.action.at, business.action.size)
    if business.params.count:
        out = put_map(out, 0x22, payload, &business.params, 0x12, False)
    if business.data.size:
        out = put_text(out, 0x2A, payload + business.data.at, business.data.size)
    if envelope.headers.count:
        out = put_map(out, 0x32, message, &envelope.headers, 0x2A, True)
    memcpy(out, start_of(identity), PyBytes_GET_SIZE(identity))
    out += PyBytes_GET_SIZE(identity)
    out = put_number(out, 0x38, client_seq_id)
    out = put_number(out, 0x50, request_id)
    out = put_number(out, 0x58, timeout_ms)
    if PyBytes_GET_SIZE(peer):
        put_text(out, 0x62, start_of(peer), PyBytes_GET_SIZE(peer))
    return result
