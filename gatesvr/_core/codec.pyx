"""Frames and envelopes to bytes and back, and the transcoding between client and upstream.

What comes from the wire is read by the cursor of reader.pxd, which has upb's verdicts; nothing is
allocated before its length was checked. What goes out is measured, allocated once and written.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from gatesvr._core.reader cimport (
    BAD_TEXT, END, FIELD, PASSED, TRACE, Cursor, Entry, Map, Span, entry_size, header_fate,
    is_plain_text, is_utf8, next_field, note_entry, open_cursor, read_entry, text_size)
from gatesvr._core.wire cimport head_size, put_head, put_varint, varint_size

cdef object ProtocolError

from gatesvr.errors import ProtocolError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


# Writing. Each function writes at out, where its bytes fit, and returns the position behind them.

cdef inline unsigned char *put_text(
    unsigned char *out, unsigned char tag, const void *data, uint64_t size
) noexcept nogil:
    """Write a length-delimited field."""
    out[0] = tag
    out = put_varint(out + 1, size)
    memcpy(out, data, size)
    return out + size


cdef inline unsigned char *put_number(
    unsigned char *out, unsigned char tag, uint64_t value
) noexcept nogil:
    """Write a varint field, nothing where it is 0."""
    if value:
        out[0] = tag
        out = put_varint(out + 1, value)
    return out


cdef inline uint64_t number_size(uint64_t value) noexcept nogil:
    """Return the bytes that put_number would write."""
    return 1 + varint_size(value) if value else 0


cdef inline uint64_t optional_size(uint64_t size) noexcept nogil:
    """Return the bytes of a length-delimited field that is left out when empty."""
    return text_size(size) if size else 0


cdef inline unsigned char *put_entry(
    unsigned char *out, unsigned char tag, const void *key, uint64_t key_size,
    const void *value, uint64_t value_size
) noexcept nogil:
    """Write a map entry; like upb, both its fields, also where they are empty."""
    out[0] = tag
    out = put_varint(out + 1, text_size(key_size) + text_size(value_size))
    out = put_text(out, 0x0A, key, key_size)
    return put_text(out, 0x12, value, value_size)


cdef unsigned char *put_map(
    unsigned char *out, unsigned char tag, const unsigned char *message, Map *entries,
    uint32_t wire_tag, bint is_filtered, bint is_trace_passed
) noexcept nogil:
    """Write the entries of a message's map field (wire_tag) under another tag, in their order."""
    cdef Cursor cursor
    cdef Entry entry
    cdef int fate
    open_cursor(&cursor, message + entries.first, entries.end - entries.first)
    while next_field(&cursor) == FIELD:
        if cursor.tag != wire_tag or read_entry(&cursor, &entry, True) != FIELD:
            continue
        if is_filtered:
            fate = header_fate(entry.key, entry.key_size)
            if fate != PASSED and not (fate == TRACE and is_trace_passed):
                continue
        out = put_entry(out, tag, entry.key, entry.key_size, entry.value, entry.value_size)
    return out


cdef inline unsigned char *start_of(bytes data) noexcept:
    return <unsigned char *>PyBytes_AS_STRING(data)


cdef inline bytes new_bytes(uint64_t size):
    """Return a bytes object of that size whose content is still to be written."""
    return PyBytes_FromStringAndSize(NULL, size)


cdef inline bytes part(const unsigned char *message, Span span):
    return PyBytes_FromStringAndSize(<const char *>message + span.at, span.size)


cdef inline str text_part(const unsigned char *data, Py_ssize_t size):
    return PyUnicode_DecodeUTF8(<const char *>data, size, NULL)


cdef dict read_map(const unsigned char *message, Map *entries, uint32_t wire_tag):
    """Return a map field as a dict."""
    cdef Cursor cursor
    cdef Entry entry
    cdef dict result = {}
    open_cursor(&cursor, message + entries.first, entries.end - entries.first)
    while next_field(&cursor) == FIELD:
        if cursor.tag == wire_tag and read_entry(&cursor, &entry, True) == FIELD:
            result[text_part(entry.key, entry.key_size)] = text_part(entry.value, entry.value_size)
    return result


# Maps of the caller. They are measured, then written, and no code of the caller's runs in between:
# what is held is an exact dict, or a list of exact tuples made here.

cdef list pairs_of(pairs):
    """Return an iterable of pairs as a list of exact tuples."""
    cdef object key, value
    cdef list result = []
    for key, value in pairs:
        result.append((key, value))
    return result


cdef object items_of(headers):
    """Return a Mapping as what items_size and put_items take; None where it is empty."""
    if headers is None or type(headers) is dict:
        return headers or None
    return pairs_of(headers.items())


cdef inline uint64_t pair_size(object key, object value) except 0:
    cdef Py_ssize_t key_size = 0
    cdef Py_ssize_t value_size = 0
    PyUnicode_AsUTF8AndSize(key, &key_size)
    PyUnicode_AsUTF8AndSize(value, &value_size)
    return entry_size(key_size, value_size)


cdef inline unsigned char *put_pair(
    unsigned char *out, unsigned char tag, object key, object value
) except NULL:
    cdef Py_ssize_t key_size = 0
    cdef Py_ssize_t value_size = 0
    cdef const char *key_data = PyUnicode_AsUTF8AndSize(key, &key_size)
    cdef const char *value_data = PyUnicode_AsUTF8AndSize(value, &value_size)
    return put_entry(out, tag, key_data, key_size, value_data, value_size)


cdef uint64_t items_size(object items) except? 0:
    """Return the bytes of put_items; ValueError for a str that is not encodable."""
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef Py_ssize_t at = 0
    cdef uint64_t size = 0
    cdef tuple pair
    if type(items) is dict:
        while PyDict_Next(items, &at, &key, &value):
            size += pair_size(<object>key, <object>value)
    elif items is not None:
        for pair in <list>items:
            size += pair_size(pair[0], pair[1])
    return size


cdef unsigned char *put_items(unsigned char *out, unsigned char tag, object items) except NULL:
    """Write map entries in the order given."""
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef Py_ssize_t at = 0
    cdef tuple pair
    if type(items) is dict:
        while PyDict_Next(items, &at, &key, &value):
            out = put_pair(out, tag, <object>key, <object>value)
    elif items is not None:
        for pair in <list>items:
            out = put_pair(out, tag, pair[0], pair[1])
    return out


# Envelopes.

cdef int read_envelope(
    Envelope *envelope, const unsigned char *message, uint32_t length, bint is_request
) noexcept nogil:
    """Read a ClientRequest or a ServerPush into a zeroed envelope; END, CORRUPT or BAD_TEXT."""
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


cdef str why(str name, int found):
    """Return the text of a message's refusal."""
    if found == BAD_TEXT:
        return f"undecodable {name}: a string is not UTF-8"
    return f"undecodable {name}: corrupt wire format"


@cython.final
@cython.auto_pickle(False)
@cython.freelist(256)
cdef class ClientRequest:
    """One decoded ClientRequest; made by RequestDecoder.feed.

    Every field has protobuf's last-wins value, and what the gate decides on (type, seq_id, action)
    is what the upstream gets (PROTOCOL 7.1).
    """

    def __cinit__(self):
        self.source = b""

    cdef const unsigned char *message(self) noexcept:
        return start_of(self.source) + self.start

    cdef int read(self, bytes source, Py_ssize_t start, uint32_t length) noexcept:
        """Read the envelope; END, CORRUPT or BAD_TEXT."""
        self.source = source
        self.start = start
        self.length = length
        return read_envelope(&self.envelope, self.message(), length, True)

    cdef int own(self) except -1:
        """Copy the message, so that it no longer keeps its chunk alive."""
        self.source = PyBytes_FromStringAndSize(<const char *>self.message(), self.length)
        self.start = 0
        return 0

    @property
    def msg_id(self):
        """The client's id of this message, echoed in its answer."""
        return self.envelope.msg_id

    @property
    def seq_id(self):
        """The client sequence number of a BUSINESS request."""
        return self.envelope.seq_id

    @property
    def type(self):
        """The RequestType, also one that this version does not know (it may be negative)."""
        return self.envelope.type

    @property
    def ack_seq_id(self):
        """The highest server seq that the application has, 0 where absent (PROTOCOL 2.5)."""
        return self.envelope.number

    @property
    def payload(self):
        """The message that type says, serialized; copied at each call."""
        return part(self.message(), self.envelope.payload)

    @property
    def headers(self):
        """The headers as the client wrote them, decoded at each call."""
        return read_map(self.message(), &self.envelope.headers, 0x2A)

    @property
    def size(self):
        """Bytes of the frame, the length's 4 included."""
        return <Py_ssize_t>self.length + 4

    @property
    def action(self):
        """The action of a BUSINESS request; None where it is refused, and of other types."""
        self.parse()
        if self.refusal is not None or self.envelope.type != TYPE_BUSINESS:
            return None
        if self.action_text is None:
            self.action_text = text_part(
                self.message() + self.envelope.payload.at + self.action_at.at, self.action_at.size)
        return self.action_text

    @property
    def error(self):
        """Why a BUSINESS request is refused with ERROR 400, "" where it is good.

        Its payload does not decode, or it breaks a limit of PROTOCOL 1.6: action, params, headers.
        Entries of a map are counted as they stand on the wire, repeated keys included. Requests of
        other types are never refused here: their headers are not read.
        """
        self.parse()
        return "" if self.refusal is None else self.refusal

    cdef int parse(self) except -1:
        """Read a BUSINESS payload, once."""
        cdef const unsigned char *action
        cdef int found
        if self.is_parsed or self.envelope.type != TYPE_BUSINESS:
            return 0
        self.is_parsed = True
        found = self.read_payload()
        if found != END:
            self.refusal = why("BusinessRequest", found)
            return 0
        action = self.message() + self.envelope.payload.at + self.action_at.at
        if self.action_at.size > MAX_ACTION_BYTES:
            self.refusal = f"action above {MAX_ACTION_BYTES} bytes"
        elif not is_plain_text(action, self.action_at.size):
            self.refusal = "control character in action"
        elif self.params.count > MAX_PARAMS:
            self.refusal = f"params above {MAX_PARAMS} entries"
        elif self.envelope.headers.count > MAX_HEADERS:
            self.refusal = f"headers above {MAX_HEADERS} entries"
        elif self.envelope.headers.text_bytes > MAX_HEADER_BYTES:
            self.refusal = f"headers above {MAX_HEADER_BYTES} bytes"
        return 0

    cdef int read_payload(self) noexcept:
        """Find the parts of a BusinessRequest; END, CORRUPT or BAD_TEXT."""
        cdef const unsigned char *payload = self.message() + self.envelope.payload.at
        cdef Cursor cursor
        cdef int found
        open_cursor(&cursor, payload, self.envelope.payload.size)
        while True:
            found = next_field(&cursor)
            if found != FIELD:
                return found
            if cursor.tag == 0x0A:
                if not is_utf8(cursor.data, cursor.size):
                    return BAD_TEXT
                self.action_at.at = <uint32_t>(cursor.data - payload)
                self.action_at.size = cursor.size
            elif cursor.tag == 0x12:
                found = note_entry(&self.params, payload, &cursor, False)
                if found != END:
                    return found
            elif cursor.tag == 0x1A:
                self.data_at.at = <uint32_t>(cursor.data - payload)
                self.data_at.size = cursor.size

    def upstream_request(
        self, bytes identity not None, uint64_t client_seq_id, uint64_t request_id,
        uint32_t timeout_ms, bytes peer not None, bint trust_trace=False
    ):
        """Return this BUSINESS request as a serialized UpstreamRequest (PROTOCOL 7.1, 7.2).

        Copied are action, params, data and the headers that may pass, each once and nothing else;
        what the gateway says stands behind them.

        Args:
            identity: The session's fields 1 and 2, from encode_identity.
            client_seq_id: The client sequence number, 0 to leave it out.
            request_id: What the answer is matched by, 0 to leave it out.
            timeout_ms: Until the deadline, 0 to leave it out.
            peer: A serialized PeerInfo, empty to leave it out.
            trust_trace: Pass traceparent, tracestate and baggage on.

        Raises:
            ValueError: The request is refused (see error), or is no BUSINESS request.
        """
        cdef const unsigned char *message = self.message()
        cdef const unsigned char *payload = message + self.envelope.payload.at
        cdef uint64_t size
        cdef unsigned char *out
        cdef bytes result
        if self.envelope.type != TYPE_BUSINESS:
            raise ValueError("not a BUSINESS request")
        self.parse()
        if self.refusal is not None:
            raise ValueError(self.refusal)
        size = (
            optional_size(self.action_at.size) + self.params.encoded_bytes
            + optional_size(self.data_at.size) + self.envelope.headers.encoded_bytes
            + PyBytes_GET_SIZE(identity) + number_size(client_seq_id) + number_size(request_id)
            + number_size(timeout_ms) + optional_size(PyBytes_GET_SIZE(peer)))
        if trust_trace:
            size += self.envelope.headers.trace_bytes
        result = new_bytes(size)
        out = start_of(result)
        if self.action_at.size:
            out = put_text(out, 0x1A, payload + self.action_at.at, self.action_at.size)
        if self.params.count:
            out = put_map(out, 0x22, payload, &self.params, 0x12, False, False)
        if self.data_at.size:
            out = put_text(out, 0x2A, payload + self.data_at.at, self.data_at.size)
        if self.envelope.headers.count:
            out = put_map(out, 0x32, message, &self.envelope.headers, 0x2A, True, trust_trace)
        memcpy(out, start_of(identity), PyBytes_GET_SIZE(identity))
        out += PyBytes_GET_SIZE(identity)
        out = put_number(out, 0x38, client_seq_id)
        out = put_number(out, 0x50, request_id)
        out = put_number(out, 0x58, timeout_ms)
        if PyBytes_GET_SIZE(peer):
            put_text(out, 0x62, start_of(peer), PyBytes_GET_SIZE(peer))
        return result


@cython.final
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class ServerPush:
    """One decoded ServerPush, the client's side; made by PushDecoder.feed."""

    def __cinit__(self):
        self.source = b""

    cdef const unsigned char *message(self) noexcept:
        return start_of(self.source) + self.start

    cdef int read(self, bytes source, Py_ssize_t start, uint32_t length) noexcept:
        """Read the envelope; END, CORRUPT or BAD_TEXT."""
        self.source = source
        self.start = start
        self.length = length
        return read_envelope(&self.envelope, self.message(), length, False)

    @property
    def msg_id(self):
        """The msg_id of the request that this answers, 0 of a notify."""
        return self.envelope.msg_id

    @property
    def seq_id(self):
        """The server sequence number, 0 where unsequenced."""
        return self.envelope.seq_id

    @property
    def type(self):
        """The PushType, also one that this version does not know (it may be negative)."""
        return self.envelope.type

    @property
    def client_seq_id(self):
        """The client sequence number of the request that this answers, 0 of a notify."""
        return self.envelope.number

    @property
    def payload(self):
        """The message that type says, serialized; copied at each call."""
        return part(self.message(), self.envelope.payload)

    @property
    def headers(self):
        """The headers, decoded at each call."""
        return read_map(self.message(), &self.envelope.headers, 0x2A)

    @property
    def size(self):
        """Bytes of the frame, the length's 4 included."""
        return <Py_ssize_t>self.length + 4

    def business(self):
        """Return code, message and data of a BUSINESS_DATA push.

        Raises:
            ProtocolError: Its payload is no BusinessResponse.
        """
        cdef const unsigned char *payload = self.message() + self.envelope.payload.at
        cdef Cursor cursor
        cdef int found
        cdef int32_t code = 0
        cdef Span message
        cdef Span data
        message.at = message.size = data.at = data.size = 0
        open_cursor(&cursor, payload, self.envelope.payload.size)
        while True:
            found = next_field(&cursor)
            if found != FIELD:
                break
            if cursor.tag == 0x08:
                code = <int32_t>cursor.value
            elif cursor.tag == 0x12:
                if not is_utf8(cursor.data, cursor.size):
                    found = BAD_TEXT
                    break
                message.at = <uint32_t>(cursor.data - payload)
                message.size = cursor.size
            elif cursor.tag == 0x1A:
                data.at = <uint32_t>(cursor.data - payload)
                data.size = cursor.size
        if found != END:
            raise ProtocolError(why("BusinessResponse", found))
        return code, text_part(payload + message.at, message.size), part(payload, data)


# Frames.

cdef inline uint32_t frame_length(const unsigned char *at) noexcept nogil:
    return (
        <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | <uint32_t>at[3])


cdef int settle(list messages, Py_ssize_t chunk_size) except -1:
    """Copy requests that may wait long out of a chunk that is mostly something else.

    BUSINESS requests wait in *held*, which counts their own bytes only. Sharing is right while
    they make up a quarter of the chunk.
    """
    cdef ClientRequest request
    cdef Py_ssize_t business_bytes = 0
    cdef object item
    for item in messages:
        request = <ClientRequest>item
        if request.start and request.envelope.type == TYPE_BUSINESS:
            business_bytes += request.length
    if chunk_size > MAX_SHARED_BYTES or 4 * business_bytes < chunk_size:
        for item in messages:
            request = <ClientRequest>item
            if request.start and 4 * <Py_ssize_t>request.length < chunk_size:
                request.own()
    return 0


@cython.auto_pickle(False)
cdef class FrameDecoder:
    """Splits a stream of bytes into frames (PROTOCOL 1.3), whatever the chunks it comes in.

    A chunk is read where it stands; only a frame that spans chunks is gathered in a buffer, which
    grows with what has come and is given back when the frame is whole.
    """

    def __init__(self, uint32_t max_message_bytes):
        self.max_message_bytes = max_message_bytes

    def __dealloc__(self):
        free(self.buffer)

    @property
    def buffered_bytes(self):
        """Bytes of a frame that has begun and not ended."""
        return self.have

    @property
    def error(self):
        """Why the stream is broken, "" while it is not; set once."""
        return "" if self.broken is None else self.broken

    def feed(self, bytes data not None):
        """Take the next chunk and return the messages that are whole now, in their order.

        At a frame of length 0, above max_message_bytes or that does not decode the stream is
        broken: the good messages before it are returned, error is set, and every later call
        returns [].

        Complexity:
            O(bytes), however they are cut.
        """
        cdef list messages = []
        cdef object message
        cdef const unsigned char *chunk = start_of(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = 0
        cdef uint32_t length
        if self.broken is not None:
            return messages
        if self.have:
            at = self.resume(data, messages)
        while self.broken is None and size - at >= 4:
            length = frame_length(chunk + at)
            if not self.is_legal(length) or size - at - 4 < <Py_ssize_t>length:
                break
            message = self.decode(data, at + 4, length)
            if message is None:
                break
            messages.append(message)
            at += <Py_ssize_t>length + 4
        if self.broken is None and at < size:
            self.keep(chunk + at, size - at, 0)
        if self.is_gateway:
            settle(messages, size)
        return messages

    cdef Py_ssize_t resume(self, bytes chunk, list messages) except -1:
        """Go on with the frame in the buffer; return how much of chunk it took."""
        cdef const unsigned char *data = start_of(chunk)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(chunk)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t need
        cdef bytes whole
        cdef object message
        if self.have < 4:
            at = min(4 - self.have, size)
            self.keep(data, at, 0)
            if self.have < 4:
                return at
        if not self.is_legal(frame_length(self.buffer)):
            return at
        need = <Py_ssize_t>frame_length(self.buffer) + 4
        if size - at < need - self.have:
            self.keep(data + at, size - at, need)
            return size
        whole = new_bytes(need - 4)
        memcpy(start_of(whole), self.buffer + 4, self.have - 4)
        memcpy(start_of(whole) + self.have - 4, data + at, need - self.have)
        at += need - self.have
        self.drop_buffer()
        message = self.decode(whole, 0, <uint32_t>(need - 4))
        if message is not None:
            messages.append(message)
        return at

    cdef int keep(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t need) except -1:
        """Put bytes of a frame that has begun into the buffer, which holds at most need bytes."""
        cdef Py_ssize_t capacity
        cdef unsigned char *buffer
        if self.have + size > self.capacity:
            capacity = max(self.have + size, 2 * self.capacity, MIN_BUFFER_BYTES)
            if need:
                capacity = min(capacity, need)
            buffer = <unsigned char *>realloc(self.buffer, capacity)
            if buffer == NULL:
                raise MemoryError
            self.buffer = buffer
            self.capacity = capacity
        memcpy(self.buffer + self.have, data, size)
        self.have += size
        return 0

    cdef bint is_legal(self, uint32_t length) except -1:
        """Return whether a frame may have that length; where not, the stream is broken."""
        if length == 0:
            self.end("frame of length 0")
            return False
        if length > self.max_message_bytes:
            self.end(f"frame of length {length} above the limit {self.max_message_bytes}")
            return False
        return True

    cdef void drop_buffer(self) noexcept:
        free(self.buffer)
        self.buffer = NULL
        self.have = self.capacity = 0

    cdef void end(self, str reason) noexcept:
        """Break the stream."""
        self.broken = reason
        self.drop_buffer()

    cdef object decode(self, bytes source, Py_ssize_t start, uint32_t length):
        """Return the message, None where it does not decode (the stream is broken then)."""
        cdef object message
        cdef int found
        if self.is_gateway:
            message = ClientRequest.__new__(ClientRequest)
            found = (<ClientRequest>message).read(source, start, length)
        else:
            message = ServerPush.__new__(ServerPush)
            found = (<ServerPush>message).read(source, start, length)
        if found != END:
            self.end(why("ClientRequest" if self.is_gateway else "ServerPush", found))
            return None
        return message


@cython.final
@cython.auto_pickle(False)
cdef class RequestDecoder(FrameDecoder):
    """The gateway's receiving side of one connection's stream.

    Args:
        max_message_bytes: Longest frame, its length's 4 bytes not included; may be set anew.
    """

    def __cinit__(self):
        self.is_gateway = True


@cython.final
@cython.auto_pickle(False)
cdef class PushDecoder(FrameDecoder):
    """The client's receiving side of its stream.

    A push keeps the chunk that it came in alive, so take from it what is needed and let it go.

    Args:
        max_message_bytes: Longest frame, its length's 4 bytes not included; may be set anew.
    """


# Answers of upstreams.

cdef inline uint64_t code_bits(int32_t value) noexcept nogil:
    """Return an int32 or enum as protobuf writes it: sign-extended to 64 bits."""
    return <uint64_t><int64_t>value


cdef int read_notify(Notify *notify, const unsigned char *data, uint32_t size) noexcept nogil:
    """Read a BoundNotify; END, CORRUPT or BAD_TEXT."""
    cdef Cursor cursor
    cdef int found
    memset(notify, 0, sizeof(Notify))
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


cdef bytes write_notify(Notify *notify, const unsigned char *message, object items):
    """Return a notify's body (PROTOCOL 7.6); its metadata stands in message, or is items."""
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
        out = put_map(out, 0x2A, message, &notify.metadata, 0x32, False, False)
    if notify.msg_type_size:
        out = put_entry(out, 0x2A, b"msg_type", 8, notify.msg_type, notify.msg_type_size)
    if notify.title_size:
        out = put_entry(out, 0x2A, b"title", 5, notify.title, notify.title_size)
    if notify.content_size:
        put_entry(out, 0x2A, b"content", 7, notify.content, notify.content_size)
    return result


@cython.final
@cython.auto_pickle(False)
@cython.freelist(256)
cdef class UpstreamAnswer:
    """One decoded UpstreamResponse, ready to become pushes; made by decode_answer(s).

    Where error is not "", only request_id and client_seq_id may be set, as far as they could still
    be read.
    """

    def __cinit__(self):
        self.source = b""

    cdef const unsigned char *message_start(self) noexcept:
        return start_of(self.source) + self.start

    cdef int read(self) noexcept:
        """Find the parts; END, CORRUPT or BAD_TEXT. After a bad string it still seeks the ids."""
        cdef const unsigned char *message = self.message_start()
        cdef Cursor cursor
        cdef Notify notify
        cdef int found
        cdef int result = END
        open_cursor(&cursor, message, self.length)
        while True:
            found = next_field(&cursor)
            if found != FIELD:
                return result if found == END else found
            if cursor.tag == 0x08:
                self.code = <int32_t>cursor.value
            elif cursor.tag == 0x12:
                if not is_utf8(cursor.data, cursor.size):
                    result = BAD_TEXT
                self.message_at.at = <uint32_t>(cursor.data - message)
                self.message_at.size = cursor.size
            elif cursor.tag == 0x1A:
                self.data_at.at = <uint32_t>(cursor.data - message)
                self.data_at.size = cursor.size
            elif cursor.tag == 0x22:
                found = note_entry(&self.headers_at, message, &cursor, False)
                if found != END:
                    result = found
            elif cursor.tag == 0x28:
                self.client_seq_id = cursor.value
            elif cursor.tag == 0x50:
                self.request_id = cursor.value
            elif cursor.tag == 0x5A:
                found = read_notify(&notify, cursor.data, cursor.size)
                if found != END:
                    result = found
                if not self.notify_count:
                    self.notifies_at.at = <uint32_t>(cursor.start - message)
                self.notifies_at.size = <uint32_t>(cursor.at - message) - self.notifies_at.at
                self.notify_count += 1
            elif cursor.tag == 0x60:
                self.status = <int32_t>cursor.value

    @property
    def error(self):
        """Why it cannot be passed on (ERROR 502), "" where it is good."""
        return "" if self.refusal is None else self.refusal

    @property
    def message(self):
        """The upstream's message, decoded at each call."""
        return text_part(self.message_start() + self.message_at.at, self.message_at.size)

    @property
    def data(self):
        """The upstream's data, copied at each call."""
        return part(self.message_start(), self.data_at)

    @property
    def headers(self):
        """The upstream's headers, decoded at each call."""
        return read_map(self.message_start(), &self.headers_at, 0x22)

    @property
    def zone(self):
        """Its header ``zone``, None where absent."""
        cdef const unsigned char *message = self.message_start()
        cdef Cursor cursor
        cdef Entry entry
        cdef str result = None
        open_cursor(
            &cursor, message + self.headers_at.first, self.headers_at.end - self.headers_at.first)
        while next_field(&cursor) == FIELD:
            if cursor.tag != 0x22 or read_entry(&cursor, &entry, True) != FIELD:
                continue
            if entry.key_size == 4 and entry.key[:4] == b"zone":
                result = text_part(entry.value, entry.value_size)
        return result

    def body(self, uint64_t client_seq_id):
        """Return fields 3-5 and 10 of the BUSINESS_DATA push that answers client_seq_id.

        Raises:
            ValueError: The answer cannot be passed on (see error).
        """
        cdef const unsigned char *message = self.message_start()
        cdef uint64_t payload_bytes
        cdef uint64_t size
        cdef unsigned char *out
        cdef bytes result
        if self.refusal is not None:
            raise ValueError(self.refusal)
        payload_bytes = (
            number_size(code_bits(self.code)) + optional_size(self.message_at.size)
            + optional_size(self.data_at.size))
        size = (
            2 + optional_size(payload_bytes) + self.headers_at.encoded_bytes
            + number_size(client_seq_id))
        result = new_bytes(size)
        out = put_number(start_of(result), 0x18, TYPE_BUSINESS_DATA)
        if payload_bytes:
            out[0] = 0x22
            out = put_varint(out + 1, payload_bytes)
            out = put_number(out, 0x08, code_bits(self.code))
            if self.message_at.size:
                out = put_text(out, 0x12, message + self.message_at.at, self.message_at.size)
            if self.data_at.size:
                out = put_text(out, 0x1A, message + self.data_at.at, self.data_at.size)
        if self.headers_at.count:
            out = put_map(out, 0x2A, message, &self.headers_at, 0x22, False, False)
        put_number(out, 0x50, client_seq_id)
        return result

    def notifies(self):
        """Return the bodies of its notifies: those before the answer and those after it.

        NSH_IMMEDIATELY and hints that this version does not know mean after (PROTOCOL 7.7).
        """
        cdef list before = []
        cdef list after = []
        cdef Cursor cursor
        cdef Notify notify
        cdef bytes body
        if self.notify_count and self.refusal is None:
            open_cursor(
                &cursor, self.message_start() + self.notifies_at.at, self.notifies_at.size)
            while next_field(&cursor) == FIELD:
                if cursor.tag != 0x5A:
                    continue
                read_notify(&notify, cursor.data, cursor.size)
                body = write_notify(&notify, cursor.data, None)
                if notify.sync_hint == 1:
                    before.append(body)
                else:
                    after.append(body)
        return before, after


cdef UpstreamAnswer new_answer(bytes source, Py_ssize_t start, uint32_t length):
    cdef UpstreamAnswer answer = UpstreamAnswer.__new__(UpstreamAnswer)
    cdef int found
    answer.source = source
    answer.start = start
    answer.length = length
    found = answer.read()
    if found != END:
        answer.refusal = why("UpstreamResponse", found)
        answer.code = answer.status = 0
        answer.notify_count = 0
        answer.message_at.size = answer.data_at.size = 0
        memset(&answer.headers_at, 0, sizeof(Map))
    return answer


def decode_answer(bytes data not None):
    """Decode one UpstreamResponse; what does not decode has its error set."""
    cdef UpstreamAnswer answer
    if PyBytes_GET_SIZE(data) > INT32_MAX:
        answer = UpstreamAnswer.__new__(UpstreamAnswer)
        answer.refusal = "undecodable UpstreamResponse: above 2 GiB"
        return answer
    return new_answer(data, 0, <uint32_t>PyBytes_GET_SIZE(data))


cdef list read_batch(bytes batch, bint is_answers):
    """Return the answers of a batch, or its messages as they are."""
    cdef const unsigned char *start = start_of(batch)
    cdef list result = []
    cdef Cursor cursor
    cdef int found
    if PyBytes_GET_SIZE(batch) > INT32_MAX:
        raise ValueError("undecodable batch: above 2 GiB")
    open_cursor(&cursor, start, PyBytes_GET_SIZE(batch))
    while True:
        found = next_field(&cursor)
        if found == END:
            return result
        if found != FIELD:
            raise ValueError(why("batch", found))
        if cursor.tag != 0x0A:
            continue
        if is_answers:
            result.append(new_answer(batch, cursor.data - start, cursor.size))
        else:
            result.append(PyBytes_FromStringAndSize(<const char *>cursor.data, cursor.size))


def decode_answers(bytes batch not None):
    """Decode an UpstreamResponseBatch.

    A response that does not decode costs no other: it has its error set.

    Raises:
        ValueError: The batch itself is corrupt.
    """
    return read_batch(batch, True)


def split_batch(bytes batch not None):
    """Return the serialized messages of an UpstreamRequestBatch or UpstreamResponseBatch.

    Raises:
        ValueError: The batch itself is corrupt.
    """
    return read_batch(batch, False)


def encode_batch(messages):
    """Return an UpstreamRequestBatch or UpstreamResponseBatch of serialized messages."""
    cdef uint64_t size = 0
    cdef bytes message
    cdef bytes result
    cdef unsigned char *out
    cdef tuple held = tuple(messages)
    for message in held:
        if message is None:
            raise TypeError("a message is None")
        size += text_size(PyBytes_GET_SIZE(message))
    result = new_bytes(size)
    out = start_of(result)
    for message in held:
        out = put_text(out, 0x0A, start_of(message), PyBytes_GET_SIZE(message))
    return result


# Encoders. A str that UTF-8 cannot encode raises UnicodeEncodeError, which is a ValueError.

def encode_identity(str session_id not None, str openid not None):
    """Return fields 1 and 2 of an UpstreamRequest."""
    cdef Py_ssize_t session_size = 0
    cdef Py_ssize_t openid_size = 0
    cdef const char *session_data = PyUnicode_AsUTF8AndSize(session_id, &session_size)
    cdef const char *openid_data = PyUnicode_AsUTF8AndSize(openid, &openid_size)
    cdef bytes result = new_bytes(optional_size(session_size) + optional_size(openid_size))
    cdef unsigned char *out = start_of(result)
    if session_size:
        out = put_text(out, 0x0A, session_data, session_size)
    if openid_size:
        put_text(out, 0x12, openid_data, openid_size)
    return result


def push_body(int32_t type, bytes payload not None, headers=None, uint64_t client_seq_id=0):
    """Return a ServerPush's fields 3-5 and 10: what follows the head that the queue writes."""
    cdef object items = items_of(headers)
    cdef Py_ssize_t payload_size = PyBytes_GET_SIZE(payload)
    cdef bytes result = new_bytes(
        number_size(code_bits(type)) + optional_size(payload_size) + items_size(items)
        + number_size(client_seq_id))
    cdef unsigned char *out = put_number(start_of(result), 0x18, code_bits(type))
    if payload_size:
        out = put_text(out, 0x22, start_of(payload), payload_size)
    out = put_items(out, 0x2A, items)
    put_number(out, 0x50, client_seq_id)
    return result


def error_body(
    int32_t code, str message not None, str detail not None="", uint32_t retry_after_ms=0,
    int32_t outcome=0, uint64_t client_seq_id=0
):
    """Return the body of an ERROR push.

    Args:
        code: error_code (PROTOCOL 6).
        message: error_message.
        detail: A request id, never an upstream's address or text.
        retry_after_ms: 0 to leave it out.
        outcome: What is known of the request (Outcome).
        client_seq_id: The request that this answers, 0 for none.
    """
    cdef Py_ssize_t message_size = 0
    cdef Py_ssize_t detail_size = 0
    cdef const char *message_data = PyUnicode_AsUTF8AndSize(message, &message_size)
    cdef const char *detail_data = PyUnicode_AsUTF8AndSize(detail, &detail_size)
    cdef uint64_t payload_bytes = (
        number_size(code_bits(code)) + optional_size(message_size) + optional_size(detail_size)
        + number_size(retry_after_ms) + number_size(code_bits(outcome)))
    cdef bytes result = new_bytes(
        2 + optional_size(payload_bytes) + number_size(client_seq_id))
    cdef unsigned char *out = put_number(start_of(result), 0x18, TYPE_ERROR)
    if payload_bytes:
        out[0] = 0x22
        out = put_varint(out + 1, payload_bytes)
        out = put_number(out, 0x08, code_bits(code))
        if message_size:
            out = put_text(out, 0x12, message_data, message_size)
        if detail_size:
            out = put_text(out, 0x1A, detail_data, detail_size)
        out = put_number(out, 0x50, retry_after_ms)
        out = put_number(out, 0x58, code_bits(outcome))
    put_number(out, 0x50, client_seq_id)
    return result


def notify_body(
    str msg_type not None, str title not None, str content not None, bytes data not None, metadata
):
    """Return the body of a notify (PROTOCOL 7.6).

    It is a BUSINESS_DATA push of code 200, message ``[msg_type] title`` and data, or content where
    data is empty. Its headers are metadata, an iterable of pairs, then msg_type, title and content
    as far as they are not empty.
    """
    cdef Notify notify
    cdef Py_ssize_t size = 0
    cdef list items = pairs_of(metadata)
    memset(&notify, 0, sizeof(Notify))
    notify.msg_type = <const unsigned char *>PyUnicode_AsUTF8AndSize(msg_type, &size)
    notify.msg_type_size = checked_size(size)
    notify.title = <const unsigned char *>PyUnicode_AsUTF8AndSize(title, &size)
    notify.title_size = checked_size(size)
    notify.content = <const unsigned char *>PyUnicode_AsUTF8AndSize(content, &size)
    notify.content_size = checked_size(size)
    notify.data = start_of(data)
    notify.data_size = checked_size(PyBytes_GET_SIZE(data))
    return write_notify(&notify, NULL, items)


cdef uint32_t checked_size(Py_ssize_t size) except? 0:
    """Return a size that a message may have; ValueError above protobuf's limit of 2 GiB."""
    if size > INT32_MAX:
        raise ValueError("above protobuf's limit of 2 GiB")
    return <uint32_t>size


def push_frame(uint32_t msg_id, uint64_t seq_id, bytes body not None):
    """Return the whole frame of a ServerPush."""
    cdef uint32_t body_size = checked_size(PyBytes_GET_SIZE(body))
    cdef bytes result = new_bytes(<uint64_t>head_size(msg_id, seq_id) + body_size)
    cdef unsigned char *out = put_head(start_of(result), msg_id, seq_id, body_size)
    memcpy(out, start_of(body), body_size)
    return result


def encode_request(
    uint32_t msg_id, uint64_t seq_id, int32_t type, bytes payload not None, headers=None,
    uint64_t ack_seq_id=0
):
    """Return the whole frame of a ClientRequest."""
    cdef object items = items_of(headers)
    cdef Py_ssize_t payload_size = PyBytes_GET_SIZE(payload)
    cdef uint64_t body_size = (
        number_size(code_bits(type)) + optional_size(payload_size) + items_size(items)
        + number_size(ack_seq_id))
    cdef uint32_t size = checked_size(body_size)
    cdef bytes result = new_bytes(<uint64_t>head_size(msg_id, seq_id) + size)
    cdef unsigned char *out = put_head(start_of(result), msg_id, seq_id, size)
    out = put_number(out, 0x18, code_bits(type))
    if payload_size:
        out = put_text(out, 0x22, start_of(payload), payload_size)
    out = put_items(out, 0x2A, items)
    put_number(out, 0x50, ack_seq_id)
    return result


def encode_business(str action not None, params, bytes data not None):
    """Return a serialized BusinessRequest."""
    cdef object items = items_of(params)
    cdef Py_ssize_t data_size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t action_size = 0
    cdef const char *action_data = PyUnicode_AsUTF8AndSize(action, &action_size)
    cdef bytes result = new_bytes(
        optional_size(action_size) + items_size(items) + optional_size(data_size))
    cdef unsigned char *out = start_of(result)
    if action_size:
        out = put_text(out, 0x0A, action_data, action_size)
    out = put_items(out, 0x12, items)
    if data_size:
        put_text(out, 0x1A, start_of(data), data_size)
    return result
