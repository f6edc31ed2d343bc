"""The answers of upstreams, and the push bodies made from them (PROTOCOL 7.1, 7.4, 7.6, 7.7).

Places count from the start of the UpstreamResponse.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from gatesvr._core.reader cimport (
    BAD_TEXT, END, FIELD, Cursor, Map, Span, entry_size, is_utf8, next_field, note_entry,
    open_cursor, text_size)
from gatesvr._core.wire cimport put_varint
from gatesvr._core.writer cimport (
    code_bits, items_size, new_bytes, number_size, optional_size, put_entry, put_items, put_map,
    put_number, put_text, start_of)

cdef enum:
    TYPE_BUSINESS_DATA = 3  # PushType

cdef enum:
    HINT_BEFORE = 1  # NotifySyncHint; every other value means after

cdef struct Answer:  # an UpstreamResponse
    uint64_t client_seq_id
    uint64_t request_id
    int32_t code
    int32_t status
    Span message
    Span data
    Span notifies  # from the first one's tag to the end of the last one
    uint32_t notify_count
    Map headers

cdef struct Notify:  # a BoundNotify, or the arguments of notify_body; borrows the bytes
    const unsigned char *msg_type
    const unsigned char *title
    const unsigned char *content
    const unsigned char *data
    uint32_t msg_type_size
    uint32_t title_size
    uint32_t content_size
    uint32_t data_size
    int32_t sync_hint
    Map metadata  # places count from the notify's start


cdef inline int read_notify(
    Notify *notify, const unsigned char *data, uint32_t size
) noexcept nogil:
    """Read a BoundNotify; return END, CORRUPT or BAD_TEXT."""
    cdef Cursor cursor
    cdef int found
    memset(notify, 0, sizeof(Notify))
    notify.msg_type = notify.title = notify.content = notify.data = data
    open_cursor(&cursor, data, size)
    while True:
        found = next_field(&cursor)
        if found != FIELD:
            return found
        if cursor.tag == 0x08:
            notify.sync_hint = <int32_t>cursor.value
        elif cursor.tag == 0x12 or cursor.tag == 0x1A or cursor.tag == 0x22:
            if not is_utf8(cursor.data, cursor.size):
                return BAD_TEXT
            if cursor.tag == 0x12:
                notify.msg_type = cursor.data
                notify.msg_type_size = cursor.size
            elif cursor.tag == 0x1A:
                notify.title = cursor.data
                notify.title_size = cursor.size
            else:
                notify.content = cursor.data
                notify.content_size = cursor.size
        elif cursor.tag == 0x2A:
            notify.data = cursor.data
            notify.data_size = cursor.size
        elif cursor.tag == 0x32:
            found = note_entry(&notify.metadata, data, &cursor, False)
            if found != END:
                return found


cdef inline int read_answer(
    Answer *answer, const unsigned char *message, uint32_t size
) noexcept nogil:
    """Read an UpstreamResponse into a zeroed struct; return END, CORRUPT or BAD_TEXT.

    Continues after a bad string, because the ids are needed.
    """
    cdef Cursor cursor
    cdef Notify notify
    cdef int found
    cdef int result = END
    open_cursor(&cursor, message, size)
    while True:
        found = next_field(&cursor)
        if found != FIELD:
            return result if found == END else found
        if cursor.tag == 0x08:
            answer.code = <int32_t>cursor.value
        elif cursor.tag == 0x12:
            if not is_utf8(cursor.data, cursor.size):
                result = BAD_TEXT
            answer.message.at = <uint32_t>(cursor.data - message)
            answer.message.size = cursor.size
        elif cursor.tag == 0x1A:
            answer.data.at = <uint32_t>(cursor.data - message)
            answer.data.size = cursor.size
        elif cursor.tag == 0x22:
            found = note_entry(&answer.headers, message, &cursor, False)
            if found != END:
                result = found
        elif cursor.tag == 0x28:
            answer.client_seq_id = cursor.value
        elif cursor.tag == 0x50:
            answer.request_id = cursor.value
        elif cursor.tag == 0x5A:
            found = read_notify(&notify, cursor.data, cursor.size)
            if found != END:
                result = found
            if not answer.notify_count:
                answer.notifies.at = <uint32_t>(cursor.start - message)
            answer.notifies.size = <uint32_t>(cursor.at - message) - answer.notifies.at
            answer.notify_count += 1
        elif cursor.tag == 0x60:
            answer.status = <int32_t>cursor.value


cdef inline bytes write_body(
    const unsigned char *message, Answer *answer, uint64_t client_seq_id
):
    """Return an answer's body: code, message and data unchanged, its headers as the push's."""
    cdef uint64_t payload_bytes = (
        number_size(code_bits(answer.code)) + optional_size(answer.message.size)
        + optional_size(answer.data.size))
    cdef bytes result = new_bytes(
        2 + optional_size(payload_bytes) + answer.headers.encoded_bytes
        + number_size(client_seq_id))
    cdef unsigned char *out = put_number(start_of(result), 0x18, TYPE_BUSINESS_DATA)
    if payload_bytes:
        out[0] = 0x22
        out = put_varint(out + 1, payload_bytes)
        out = put_number(out, 0x08, code_bits(answer.code))
        if answer.message.size:
            out = put_text(out, 0x12, message + answer.message.at, answer.message.size)
        if answer.data.size:
            out = put_text(out, 0x1A, message + answer.data.at, answer.data.size)
    if answer.headers.count:
        out = put_map(out, 0x2A, message, &answer.headers, 0x22, False)
    put_number(out, 0x50, client_seq_id)
    return result


cdef inline bytes write_notify(Notify *notify, const unsigned char *message, object items):
    """Return a notify's body (PROTOCOL 7.6); items replaces the metadata in message if given."""
    cdef const unsigned char *data = notify.data if notify.data_size else notify.content
    cdef uint32_t data_size = notify.data_size if notify.data_size else notify.content_size
    cdef uint64_t text_bytes = 3 + <uint64_t>notify.msg_type_size + notify.title_size
    cdef uint64_t payload_bytes = 3 + text_size(text_bytes) + optional_size(data_size)
    cdef uint64_t size = 2 + text_size(payload_bytes) + notify.metadata.encoded_bytes
    cdef unsigned char *out
    cdef bytes result
    if items is not None:
        size += items_size(items)
    if notify.msg_type_size:
        size += entry_size(8, notify.msg_type_size)
    if notify.title_size:
        size += entry_size(5, notify.title_size)
    if notify.content_size:
        size += entry_size(7, notify.content_size)
    result = new_bytes(size)
    out = put_number(start_of(result), 0x18, TYPE_BUSINESS_DATA)
    out[0] = 0x22
    out = put_varint(out + 1, payload_bytes)
    out = put_number(out, 0x08, 200)
    out[0] = 0x12
    out = put_varint(out + 1, text_bytes)
    out[0] = 0x5B  # [
    memcpy(out + 1, notify.msg_type, notify.msg_type_size)
    out += 1 + notify.msg_type_size
    out[0] = 0x5D  # ]
    out[1] = 0x20
    memcpy(out + 2, notify.title, notify.title_size)
    out += 2 + notify.title_size
    if data_size:
        out = put_text(out, 0x1A, data, data_size)
    if items is not None:
        out = put_items(out, 0x2A, items)
    elif notify.metadata.count:
        out = put_map(out, 0x2A, message, &notify.metadata, 0x32, False)
    if notify.msg_type_size:
        out = put_entry(out, 0x2A, b"msg_type", 8, notify.msg_type, notify.msg_type_size)
    if notify.title_size:
        out = put_entry(out, 0x2A, b"title", 5, notify.title, notify.title_size)
    if notify.content_size:
        put_entry(out, 0x2A, b"content", 7, notify.content, notify.content_size)
    return result


cdef inline tuple write_notifies(const unsigned char *message, Answer *answer):
    """Return the bodies of an answer's notifies: a list of those before it, one of those after."""
    cdef list before = []
    cdef list after = []
    cdef Cursor cursor
    cdef Notify notify
    cdef bytes body
    open_cursor(&cursor, message + answer.notifies.at, answer.notifies.size)
    while next_field(&cursor) == FIELD:
        if cursor.tag != 0x5A:
            continue
        read_notify(&notify, cursor.data, cursor.size)
        body = write_notify(&notify, cursor.data, None)
        if notify.sync_hint == HINT_BEFORE:
            before.append(body)
        else:
            after.append(body)
    return before, after
