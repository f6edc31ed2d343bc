"""Frames and envelopes to bytes and back, and the transcoding between client and upstream.

The cursor of reader.pxd reads incoming bytes and gives upb's verdicts. Nothing is allocated before
its length has been checked. Outgoing messages are measured, allocated once and written.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from gatesvr._core.answer cimport (
    Answer, Notify, read_answer, write_body, write_notifies, write_notify)
from gatesvr._core.envelope cimport (
    Response, read_business, read_envelope, read_response, write_upstream)
from gatesvr._core.reader cimport (
    END, FIELD, Cursor, Entry, is_plain_text, next_field, open_cursor, read_entry, text_size)
from gatesvr._core.wire cimport head_size, put_head, put_varint
from gatesvr._core.writer cimport (
    PyUnicode_AsUTF8AndSize, checked_size, code_bits, items_of, items_size, new_bytes, number_size,
    optional_size, pairs_of, part, put_items, put_number, put_text, read_map, start_of, text_part,
    why)

cdef object ProtocolError

from gatesvr.errors import ProtocolError


@cython.final
@cython.auto_pickle(False)
@cython.freelist(256)
cdef class ClientRequest:
    """One decoded ClientRequest; RequestDecoder.feed makes it.

    Every field has the value that protobuf would give it (the last one wins). The upstream gets the
    same type, seq_id and action that the gateway decided on (PROTOCOL 7.1).
    """

    def __cinit__(self):
        self.source = b""

    cdef const unsigned char *message(self) noexcept:
        return start_of(self.source) + self.start

    cdef int read(self, bytes source, Py_ssize_t start, uint32_t length) noexcept:
        """Read the envelope; return END, CORRUPT or BAD_TEXT."""
        self.source = source
        self.start = start
        self.length = length
        return read_envelope(&self.envelope, self.message(), length, True)

    cdef int own(self) except -1:
        """Copy the message, so that it stops keeping its chunk alive."""
        self.source = PyBytes_FromStringAndSize(<const char *>self.message(), self.length)
        self.start = 0
        return 0

    @property
    def msg_id(self):
        """The client's id for this message, echoed in its answer."""
        return self.envelope.msg_id

    @property
    def seq_id(self):
        """The client sequence number of a BUSINESS request."""
        return self.envelope.seq_id

    @property
    def type(self):
        """The RequestType as on the wire; unknown and negative values are kept."""
        return self.envelope.type

    @property
    def ack_seq_id(self):
        """The highest server seq that the application has processed, 0 if absent (PROTOCOL 2.5)."""
        return self.envelope.number

    @property
    def payload(self):
        """The serialized message of this type; copied on each call."""
        return part(self.message(), self.envelope.payload)

    @property
    def headers(self):
        """The headers as the client wrote them; decoded on each call."""
        return read_map(self.message(), &self.envelope.headers, 0x2A)

    @property
    def size(self):
        """Size of the frame in bytes, with the 4 of the length."""
        return <Py_ssize_t>self.length + 4

    @property
    def action(self):
        """The action of a BUSINESS request; None if the request is refused or of another type."""
        cdef Py_ssize_t at
        self.parse()
        if self.refusal is not None or self.envelope.type != TYPE_BUSINESS:
            return None
        if self.action_text is None:
            at = self.envelope.payload.at + self.business.action.at
            self.action_text = text_part(self.message() + at, self.business.action.size)
        return self.action_text

    @property
    def error(self):
        """Why a BUSINESS request is refused with ERROR 400; "" if it is good.

        Its payload does not decode, or exceeds a limit of PROTOCOL 1.6 on action, params or
        headers. Map entries count as on the wire, repeated keys included. Requests of other types
        are never refused here: their headers are not read.
        """
        self.parse()
        return "" if self.refusal is None else self.refusal

    cdef int parse(self) except -1:
        """Read the BUSINESS payload, once."""
        cdef const unsigned char *payload
        cdef int found
        if self.is_parsed or self.envelope.type != TYPE_BUSINESS:
            return 0
        self.is_parsed = True
        payload = self.message() + self.envelope.payload.at
        found = read_business(&self.business, payload, self.envelope.payload.size)
        if found != END:
            self.refusal = why("BusinessRequest", found)
            return 0
        if self.business.action.size > MAX_ACTION_BYTES:
            self.refusal = f"action above {MAX_ACTION_BYTES} bytes"
        elif not is_plain_text(payload + self.business.action.at, self.business.action.size):
            self.refusal = "control character in action"
        elif self.business.params.count > MAX_PARAMS:
            self.refusal = f"params above {MAX_PARAMS} entries"
        elif self.envelope.headers.count > MAX_HEADERS:
            self.refusal = f"headers above {MAX_HEADERS} entries"
        elif self.envelope.headers.text_bytes > MAX_HEADER_BYTES:
            self.refusal = f"headers above {MAX_HEADER_BYTES} bytes"
        return 0

    def upstream_request(
        self, bytes identity not None, uint64_t client_seq_id, uint64_t request_id,
        uint32_t timeout_ms, bytes peer not None
    ):
        """Return this BUSINESS request as a serialized UpstreamRequest (PROTOCOL 7.1, 7.2).

        Copies action, params, data and the headers that may pass, each once and nothing else; the
        gateway's own fields follow them.

        Args:
            identity: The session's fields 1 and 2, from encode_identity.
            client_seq_id: The client sequence number, 0 to leave it out.
            request_id: Matches the answer to the request, 0 to leave it out.
            timeout_ms: Time until the deadline, 0 to leave it out.
            peer: A serialized PeerInfo, empty to leave it out.

        Raises:
            ValueError: The request is refused (see error), or is not a BUSINESS request.
        """
        if self.envelope.type != TYPE_BUSINESS:
            raise ValueError("not a BUSINESS request")
        self.parse()
        if self.refusal is not None:
            raise ValueError(self.refusal)
        return write_upstream(
            self.message(), &self.envelope, &self.business, identity, client_seq_id, request_id,
            timeout_ms, peer)


@cython.final
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class ServerPush:
    """One decoded ServerPush, for the client; PushDecoder.feed makes it."""

    def __cinit__(self):
        self.source = b""

    cdef const unsigned char *message(self) noexcept:
        return start_of(self.source) + self.start

    cdef int read(self, bytes source, Py_ssize_t start, uint32_t length) noexcept:
        """Read the envelope; return END, CORRUPT or BAD_TEXT."""
        self.source = source
        self.start = start
        self.length = length
        return read_envelope(&self.envelope, self.message(), length, False)

    @property
    def msg_id(self):
        """The msg_id of the request that this answers, 0 for a notify."""
        return self.envelope.msg_id

    @property
    def seq_id(self):
        """The server sequence number, 0 if unsequenced."""
        return self.envelope.seq_id

    @property
    def type(self):
        """The PushType as on the wire; unknown and negative values are kept."""
        return self.envelope.type

    @property
    def client_seq_id(self):
        """The client sequence number of the request that this answers, 0 for a notify."""
        return self.envelope.number

    @property
    def payload(self):
        """The serialized message of this type; copied on each call."""
        return part(self.message(), self.envelope.payload)

    @property
    def headers(self):
        """The headers; decoded on each call."""
        return read_map(self.message(), &self.envelope.headers, 0x2A)

    @property
    def size(self):
        """Size of the frame in bytes, with the 4 of the length."""
        return <Py_ssize_t>self.length + 4

    def business(self):
        """Return code, message and data of a BUSINESS_DATA push.

        Raises:
            ProtocolError: The payload is not a BusinessResponse.
        """
        cdef const unsigned char *payload = self.message() + self.envelope.payload.at
        cdef Response response
        cdef int found
        memset(&response, 0, sizeof(Response))
        found = read_response(&response, payload, self.envelope.payload.size)
        if found != END:
            raise ProtocolError(why("BusinessResponse", found))
        return (
            response.code,
            text_part(payload + response.message.at, response.message.size),
            part(payload, response.data),
        )


# Frames.

cdef inline uint32_t frame_length(const unsigned char *at) noexcept nogil:
    return (
        <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | <uint32_t>at[3])


cdef int settle(list messages, Py_ssize_t chunk_size) except -1:
    """Copy requests that may wait long out of a chunk that holds mostly other bytes.

    BUSINESS requests wait in *held*, which counts only their own bytes. They may share the chunk
    while they make up at least a quarter of it.
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
    """Splits a stream of bytes into frames (PROTOCOL 1.3), however the bytes are cut into chunks.

    Frames are read in place. Only a frame that spans chunks is collected in a buffer, which grows
    with the bytes received and is freed once the frame is complete.
    """

    def __init__(self, uint32_t max_message_bytes):
        self.max_message_bytes = max_message_bytes

    def __dealloc__(self):
        free(self.buffer)

    @property
    def buffered_bytes(self):
        """Bytes received of an incomplete frame."""
        return self.have

    @property
    def error(self):
        """Why the stream is broken; "" while it is not. Set once."""
        return "" if self.broken is None else self.broken

    def feed(self, bytes data not None):
        """Take the next chunk and return the messages it completes, in order.

        A frame of length 0, one longer than max_message_bytes, and one that does not decode break
        the stream: the good messages before it are returned, error is set, and every later call
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
            self.sum_up(messages)
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
            self.sum_up(messages)
            settle(messages, size)
        return messages

    cdef int sum_up(self, list messages) except -1:
        """Work out the sums that would otherwise cost callers a loop over the messages."""
        cdef ClientRequest request
        cdef object item
        self.is_business = len(messages) > 0
        self.highest_ack = 0
        self.message_bytes = 0
        for item in messages:
            request = <ClientRequest>item
            if request.envelope.type != TYPE_BUSINESS or request.envelope.msg_id == 0:
                self.is_business = False
            self.highest_ack = max(self.highest_ack, request.envelope.number)
            self.message_bytes += <Py_ssize_t>request.length + 4
        return 0

    cdef Py_ssize_t resume(self, bytes chunk, list messages) except -1:
        """Continue the frame in the buffer; return how many bytes of chunk it took."""
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
        """Add bytes of an incomplete frame to the buffer, which holds at most need bytes."""
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
        """Return whether a frame may have this length; if not, break the stream."""
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
        """Return the message; if it does not decode, break the stream and return None."""
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
        max_message_bytes: Longest frame, without the 4 bytes of its length; may change later.

    Attributes:
        is_business: Whether the last feed() returned BUSINESS requests with a msg_id and no others.
        highest_ack: The highest ack_seq_id in the last feed().
        message_bytes: The total size of the last feed()'s messages.
    """

    def __cinit__(self):
        self.is_gateway = True


@cython.final
@cython.auto_pickle(False)
cdef class PushDecoder(FrameDecoder):
    """The client's receiving side of its stream.

    A push keeps its chunk alive: take what you need from it and drop it.

    Args:
        max_message_bytes: Longest frame, without the 4 bytes of its length; may change later.
    """


# Answers of upstreams.

@cython.final
@cython.auto_pickle(False)
@cython.freelist(256)
cdef class UpstreamAnswer:
    """One decoded UpstreamResponse, ready to become pushes; decode_answer(s) makes it.

    If error is set, only request_id and client_seq_id are meaningful, as far as they could be read.
    """

    def __cinit__(self):
        self.source = b""

    cdef const unsigned char *message_start(self) noexcept:
        return start_of(self.source) + self.start

    @property
    def error(self):
        """Why it cannot be passed on (ERROR 502); "" if it can."""
        return "" if self.refusal is None else self.refusal

    @property
    def code(self):
        """The upstream's code."""
        return self.answer.code

    @property
    def status(self):
        """The UpstreamStatus as on the wire; unknown values are kept."""
        return self.answer.status

    @property
    def client_seq_id(self):
        """The client sequence number that the upstream names, 0 if absent."""
        return self.answer.client_seq_id

    @property
    def request_id(self):
        """The id that matches it to its request, 0 if absent."""
        return self.answer.request_id

    @property
    def message(self):
        """The upstream's message; decoded on each call."""
        return text_part(self.message_start() + self.answer.message.at, self.answer.message.size)

    @property
    def data(self):
        """The upstream's data; copied on each call."""
        return part(self.message_start(), self.answer.data)

    @property
    def headers(self):
        """The upstream's headers; decoded on each call."""
        return read_map(self.message_start(), &self.answer.headers, 0x22)

    @property
    def zone(self):
        """The value of its ``zone`` header, None if absent."""
        cdef const unsigned char *entries = self.message_start() + self.answer.headers.first
        cdef Cursor cursor
        cdef Entry entry
        cdef str result = None
        open_cursor(&cursor, entries, self.answer.headers.end - self.answer.headers.first)
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
        if self.refusal is not None:
            raise ValueError(self.refusal)
        return write_body(self.message_start(), &self.answer, client_seq_id)

    def notifies(self):
        """Return the bodies of its notifies in two lists: before the answer, and after it.

        NSH_IMMEDIATELY and unknown hints mean after (PROTOCOL 7.7).
        """
        if self.refusal is not None:
            return [], []
        return write_notifies(self.message_start(), &self.answer)


cdef UpstreamAnswer new_answer(bytes source, Py_ssize_t start, uint32_t length):
    cdef UpstreamAnswer answer = UpstreamAnswer.__new__(UpstreamAnswer)
    cdef uint64_t request_id, client_seq_id
    cdef int found
    answer.source = source
    answer.start = start
    answer.length = length
    found = read_answer(&answer.answer, answer.message_start(), length)
    if found != END:
        answer.refusal = why("UpstreamResponse", found)
    elif answer.answer.notify_count > MAX_NOTIFIES:
        answer.refusal = f"UpstreamResponse with more than {MAX_NOTIFIES} notifies"
    if answer.refusal is not None:
        request_id = answer.answer.request_id
        client_seq_id = answer.answer.client_seq_id
        memset(&answer.answer, 0, sizeof(Answer))
        answer.answer.request_id = request_id
        answer.answer.client_seq_id = client_seq_id
    return answer


def decode_answer(bytes data not None):
    """Decode one UpstreamResponse; sets the error of one that does not decode."""
    cdef UpstreamAnswer answer
    if PyBytes_GET_SIZE(data) > INT32_MAX:
        answer = UpstreamAnswer.__new__(UpstreamAnswer)
        answer.refusal = "undecodable UpstreamResponse: above 2 GiB"
        return answer
    return new_answer(data, 0, <uint32_t>PyBytes_GET_SIZE(data))


cdef list read_batch(bytes batch, bint is_answers, Py_ssize_t limit):
    """Return the answers of a batch, or its serialized messages."""
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
        if len(result) >= limit:
            raise ValueError(f"more than {limit} answers")
        if is_answers:
            result.append(new_answer(batch, cursor.data - start, cursor.size))
        else:
            result.append(PyBytes_FromStringAndSize(<const char *>cursor.data, cursor.size))


def decode_answers(bytes batch not None, Py_ssize_t max_answers=INT32_MAX):
    """Decode an UpstreamResponseBatch; return its UpstreamAnswers.

    A response that does not decode has its error set; the others are still good.

    Raises:
        ValueError: The batch itself is corrupt, or has more than max_answers.
    """
    return read_batch(batch, True, max_answers)


def split_batch(bytes batch not None):
    """Return the serialized messages of an UpstreamRequestBatch or UpstreamResponseBatch.

    Raises:
        ValueError: The batch itself is corrupt.
    """
    return read_batch(batch, False, INT32_MAX)


def has_more_entries(bytes message not None, Py_ssize_t limit):
    """Return whether a message has more than limit entries in field 1, corrupt ones not counted."""
    cdef Cursor cursor
    cdef Py_ssize_t count = 0
    if PyBytes_GET_SIZE(message) > INT32_MAX:
        return True
    open_cursor(&cursor, start_of(message), PyBytes_GET_SIZE(message))
    while next_field(&cursor) == FIELD:
        count += cursor.tag == 0x0A
        if count > limit:
            return True
    return False


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
    """Return a ServerPush's fields 3-5 and 10, which follow the head written by the queue."""
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


@cython.warn.undeclared(False)
class MessageCodec:
    """Every way into the codec, under one name.

    Callers on a message's path import the module's functions, which are these same objects: a call
    through the class would cost a lookup a message.
    """

    RequestDecoder = RequestDecoder
    PushDecoder = PushDecoder
    decode_answer = staticmethod(decode_answer)
    decode_answers = staticmethod(decode_answers)
    encode_batch = staticmethod(encode_batch)
    has_more_entries = staticmethod(has_more_entries)
    split_batch = staticmethod(split_batch)
    encode_identity = staticmethod(encode_identity)
    push_body = staticmethod(push_body)
    error_body = staticmethod(error_body)
    notify_body = staticmethod(notify_body)
    push_frame = staticmethod(push_frame)
    encode_request = staticmethod(encode_request)
    encode_business = staticmethod(encode_business)
