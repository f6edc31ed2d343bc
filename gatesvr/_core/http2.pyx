"""The client's side of one HTTP/2 connection, as gRPC uses it (RFC 9113, gRPC over HTTP/2).

An Http2Connection turns calls into bytes and bytes into events. It knows no clock, socket or loop.
What a peer does wrong on a stream ends that stream with RST_STREAM; what it does wrong on the
connection, and what goes above a limit, ends the connection with GOAWAY.

Sending. What the peer's windows allow is written at once. The rest of a message waits in its
stream (*unsent*). A stream whose own window is open then waits in a line for the connection's
window; the line's streams send a frame each in turn.

Receiving. The connection's window is given back as bytes come, so it bounds nothing but what is
under way. A stream's window bounds what the stream may hold of a message in progress: 64 KiB, and
what it has *reserved* of the connection's budget. As soon as the length of a message is known, and
is legal, the stream reserves what the message needs beyond its window and gives the peer that
credit; where the budget has no room, it waits in line. So window + held <= STREAM_WINDOW + reserved
always holds, and each message whose credit was given can end, which frees its share for the next.
The answer of a unary call keeps its share until the call ends.

A frame that brings nothing takes a token (flood.pxd); a peer out of tokens floods.
"""
cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize)
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT32_MAX, UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from gatesvr._core.buffer cimport append, clear, extend, free_buffer, front_of, size_of
from gatesvr._core.flood cimport (
    EXPLAINED_BY_FRAME, EXPLAINED_BY_RESET, EXPLAINED_BYTES, explain, is_explained, pay)
from gatesvr._core.frame cimport (
    ACK, CONTINUATION_FRAME, DATA_FRAME, ENABLE_PUSH, END_HEADERS, END_STREAM, GOAWAY_FRAME,
    HEAD_BYTES, HEADER_TABLE_SIZE, HEADERS_FRAME, INITIAL_WINDOW_SIZE, LAST_FRAME_BYTES,
    MAX_CONCURRENT_STREAMS, MAX_FRAME_BYTES, MAX_FRAME_SIZE, MAX_STREAM_ID, MAX_WINDOW, PING_BYTES,
    PING_FRAME, PRIORITY_FRAME, PUSH_PROMISE_FRAME, RST_STREAM_FRAME, SETTINGS_FRAME,
    WINDOW_UPDATE_FRAME, Frame, append_goaway, append_number, append_ping, append_preface, get_16,
    get_32, put_32, put_head, read_head, strip_padding, strip_priority)
from gatesvr._core.hpack cimport HPACK_CORRUPT, HPACK_OK, HpackDecoder
from gatesvr._core.line cimport is_in_line, join, leave
from gatesvr._core.request cimport RequestEncoder
from gatesvr._core.response cimport (
    GRPC_INTERNAL, GRPC_OK, GRPC_RESOURCE_EXHAUSTED, GRPC_UNAVAILABLE, GRPC_UNKNOWN, BAD_STATUS,
    NO_STATUS, clear_head, read_field, status_of_http, status_of_reset, status_text)

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *data, Py_ssize_t size) except NULL

cdef bytes PING_DATA = b"gatesvr\0"
cdef tuple CODE_NAMES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
    "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
    "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)


cdef str code_name(uint32_t code):
    return CODE_NAMES[code] if code < <uint32_t>len(CODE_NAMES) else f"error {code}"


cdef str debug_text(const unsigned char *data, size_t size):
    return PyUnicode_DecodeUTF8(<const char *>data, min(size, <size_t>MAX_DEBUG_BYTES), b"replace")


cdef int check_message(bytes message) except -1:
    if PyBytes_GET_SIZE(message) > INT32_MAX - PREFIX_BYTES:
        raise ValueError("message above 2 GiB")
    return 0


@cython.final
@cython.auto_pickle(False)
@cython.freelist(256)
cdef class Stream:
    """One call or stream of messages; Http2Connection.call() and open() make it.

    Attributes:
        owner: The caller's own.
        id: The stream's id.
        is_unary: Whether call() made it.
        is_ended: Whether it has ended, also by cancel().
        status: The gRPC status, -1 until the ENDED event.
        details: The peer's grpc-message, or why the connection ended the stream.
        is_remote: Whether the status was in the peer's trailers.
        is_unprocessed: Whether the peer says that it did not begin with it, and sent nothing on it.
        message: The response of a call() that ended with status 0, else None.
    """

    def __cinit__(self):
        self.status = -1
        self.details = ""

    def __dealloc__(self):
        self.free()

    @property
    def unsent_bytes(self):
        """Bytes of messages that wait for the peer's windows."""
        return size_of(&self.unsent)

    cdef int64_t held(self) noexcept:
        """Return the bytes of the message in progress that have come."""
        return <int64_t>self.prefix_size + self.body_size

    cdef int collect(self, const unsigned char *data, uint32_t size) except -1:
        """Add bytes to the message in progress, whose memory grows with what has come."""
        cdef Py_ssize_t need = <Py_ssize_t>self.body_size + size
        cdef Py_ssize_t capacity
        if self.body == NULL:
            capacity = min(max(need, <Py_ssize_t>MIN_BODY), <Py_ssize_t>self.length)
            self.body = new_bytes(NULL, capacity)
        elif need > PyBytes_GET_SIZE(<object>self.body):
            capacity = min(max(need, 2 * <Py_ssize_t>self.body_size), <Py_ssize_t>self.length)
            _PyBytes_Resize(&self.body, capacity)
        memcpy(PyBytes_AS_STRING(<object>self.body) + self.body_size, data, size)
        self.body_size += size
        return 0

    cdef bytes whole(self):
        """Return the message in progress, all of which has come."""
        cdef bytes message = <bytes>self.body
        Py_XDECREF(self.body)
        self.body = NULL
        self.body_size = 0
        return message

    cdef void free(self) noexcept:
        free_buffer(&self.unsent)
        Py_XDECREF(self.body)
        self.body = NULL
        self.body_size = 0
        self.prefix_size = 0


@cython.final
@cython.auto_pickle(False)
cdef class Http2Connection:
    """One connection; the preface and our SETTINGS are in the output at once.

    Args:
        authority: The :authority of every request.
        scheme: http or https.
        max_message_bytes: The largest message that it takes.
        user_agent: The user-agent of every request.

    Attributes:
        error_code: The code of our GOAWAY where the connection ended by our judgement, else -1.
        is_ready: Whether the peer's first SETTINGS have come.
        goaway_code: The code of the peer's GOAWAY, -1 before one.
        goaway_text: Its text, cut at 256 bytes.
        max_streams: The peer's MAX_CONCURRENT_STREAMS, 100 before its SETTINGS.
        unsent_bytes: Bytes of messages that wait for the peer's windows.
        buffered_bytes: Bytes of messages received in part, and of unary answers without their end.
        frames_received: Frames.
        pings_answered: PINGs of the peer.
        settings_received: SETTINGS of the peer.
        resets_received: RST_STREAMs of open streams.

    Raises:
        ValueError: A text that no header may hold, or a limit out of range.
    """

    def __cinit__(
        self,
        str authority not None,
        str scheme not None,
        *,
        int64_t max_message_bytes,
        str user_agent not None="gatesvr",
    ):
        if not 1 <= max_message_bytes <= INT32_MAX - PREFIX_BYTES:
            raise ValueError("max_message_bytes is not from 1 to 2 GiB")
        self._error = ""
        self.error_code = -1
        self.goaway_code = -1
        self.goaway_text = ""
        self._streams = {}
        self._next_id = 1
        self._last_id = MAX_STREAM_ID
        self.max_streams = ASSUMED_STREAMS
        self._encoder = RequestEncoder(authority, scheme, user_agent)
        self._send_window = self._initial_window = STREAM_WINDOW
        self._max_frame = MAX_FRAME_BYTES
        self._max_message_bytes = <uint32_t>max_message_bytes
        self._decoder = HpackDecoder(TABLE_BYTES, MAX_LIST_BYTES)
        self._budget = max(<int64_t>MIN_BUDGET, 4 * (max_message_bytes + PREFIX_BYTES))
        append_preface(&self._out, TABLE_BYTES, STREAM_WINDOW, MAX_LIST_BYTES)
        append_number(&self._out, WINDOW_UPDATE_FRAME, 0, CONNECTION_WINDOW - STREAM_WINDOW)

    def __dealloc__(self):
        free_buffer(&self._out)
        free_buffer(&self._in)
        free_buffer(&self._block)
        free_buffer(&self._head.text)

    # The owner's side.

    @property
    def error(self):
        """Why the connection ended by our judgement; "" while it has not. Set once."""
        return self._error

    @property
    def is_leaving(self):
        """Whether it opens no more streams."""
        return (
            self.goaway_code >= 0 or self._is_closing or self.error_code >= 0
            or self._next_id > MAX_STREAM_ID)

    @property
    def goodbye(self):
        """The peer's GOAWAY, as people read it: "GOAWAY NO_ERROR: max_age"; "" before one."""
        cdef str name
        if self.goaway_code < 0:
            return ""
        name = code_name(<uint32_t>self.goaway_code)
        return f"GOAWAY {name}: {self.goaway_text}" if self.goaway_text else f"GOAWAY {name}"

    @property
    def room(self):
        """Streams that may be opened now."""
        return self._room()

    @property
    def open_streams(self):
        """Streams that have not ended."""
        return len(self._streams)

    def streams(self):
        """Return the open streams, oldest first."""
        return list(self._streams.values())

    def call(
        self, str path not None, bytes message not None, object owner, int64_t timeout_ms=0,
        object metadata=None,
    ):
        """Begin a unary call and return its stream; an ENDED event tells its end.

        Args:
            path: /package.Service/Method.
            message: The request.
            owner: For the caller.
            timeout_ms: Time until the deadline, 0 to leave it out.
            metadata: Further fields: lower-case names and printable ASCII.

        Raises:
            RuntimeError: No room for another stream.
            ValueError: A path, metadata or message that cannot be sent.
        """
        cdef Stream stream
        check_message(message)
        stream = self._begin(path, owner, timeout_ms, metadata)
        stream.is_unary = True
        stream.is_finishing = True
        self._send(stream, message)
        return stream

    def open(
        self, str path not None, object owner, int64_t timeout_ms=0, object metadata=None
    ):
        """Begin a stream of messages and return it; arguments and errors as of call()."""
        return self._begin(path, owner, timeout_ms, metadata)

    def send(self, Stream stream not None, bytes message not None):
        """Send a message; nothing on a stream that has ended.

        Raises:
            ValueError: The stream is finished, or the message is above 2 GiB.
        """
        check_message(message)
        if not self._is_open(stream) or self.error_code >= 0:
            return
        if stream.is_finishing:
            raise ValueError("the stream is finished")
        self._send(stream, message)

    def finish(self, Stream stream not None):
        """End our side of a stream, behind what is unsent."""
        if not self._is_open(stream) or stream.is_finishing:
            return
        stream.is_finishing = True
        if size_of(&stream.unsent) == 0:
            put_head(extend(&self._out, HEAD_BYTES), 0, DATA_FRAME, END_STREAM, stream.id)
            stream.is_finished = True

    def cancel(self, Stream stream not None, uint32_t code=CANCEL):
        """End a stream with RST_STREAM; no event follows. Nothing on one that has ended."""
        if self._is_open(stream):
            self._put_reset(stream, code)
            self._drop(stream)

    def ping(self):
        """Send a PING, whose answer is a PONG event; nothing while one is under way."""
        if not self._is_pinging and self.error_code < 0:
            self._is_pinging = True
            append_ping(&self._out, <const unsigned char *>PyBytes_AS_STRING(PING_DATA), 0)

    def close(self, str text not None=""):
        """Send GOAWAY(NO_ERROR): no more streams are opened, the open ones go on."""
        if not self._is_closing and self.error_code < 0:
            self._is_closing = True
            self._put_goaway(NO_ERROR, text)

    def take(self):
        """Return everything to write now, b"" for nothing."""
        cdef bytes data
        cdef size_t size = size_of(&self._out)
        if size == 0:
            return b""
        data = PyBytes_FromStringAndSize(<const char *>front_of(&self._out), size)
        clear(&self._out)
        self._replies = 0
        return data

    def receive(self, bytes data not None, double now):
        """Take what the socket has read and return the events (kind, stream, bytes), in order.

        Args:
            data: Any part of what the peer sends.
            now: Seconds, never back.

        Complexity:
            O(bytes), however they are cut.
        """
        cdef list events = []
        if self.error_code >= 0:
            return events
        self._events = events
        self._now = now
        self._read(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self._events = None
        return events

    # Streams.

    cdef int64_t _room(self) noexcept:
        cdef int64_t room
        if self.goaway_code >= 0 or self._is_closing or self.error_code >= 0:
            return 0
        room = <int64_t>self.max_streams - len(self._streams)
        return max(<int64_t>0, min(room, (<int64_t>MAX_STREAM_ID + 2 - self._next_id) // 2))

    cdef Stream _find(self, uint32_t stream_id):
        """Return the open stream with an id, or None."""
        if self._last is not None and self._last.id == stream_id:
            return self._last
        return <Stream>self._streams.get(stream_id)

    cdef bint _is_open(self, Stream stream) except -1:
        """Return whether a stream is one of ours and has not ended."""
        return not stream.is_ended and self._find(stream.id) is stream

    cdef Stream _begin(self, str path, object owner, int64_t timeout_ms, object metadata):
        """Write the HEADERS of a request; return its stream."""
        cdef Stream stream
        if self._room() == 0:
            raise RuntimeError("no room for another stream")
        stream = Stream.__new__(Stream)
        stream.owner = owner
        stream.id = self._next_id
        stream.window = STREAM_WINDOW
        stream.send_window = self._initial_window
        self._encoder.put(&self._out, self._max_frame, stream.id, path, timeout_ms, metadata)
        explain(&self._flood, EXPLAINED_BY_FRAME)
        self._next_id += 2
        self._streams[stream.id] = stream
        return stream

    cdef int _drop(self, Stream stream) except -1:
        """Forget a stream and all that it holds."""
        del self._streams[stream.id]
        if self._last is stream:
            self._last = None
        stream.is_ended = True
        leave(&self._sending, &stream.sending)
        leave(&self._waiting, &stream.waiting)
        self.unsent_bytes -= size_of(&stream.unsent)
        self.buffered_bytes -= stream.counted
        self._release(stream)
        stream.counted = 0
        stream.free()
        return self._serve_waiting()

    cdef int _end(self, Stream stream, int status, str details) except -1:
        """End a stream with a status, and tell."""
        self._drop(stream)
        stream.status = status
        stream.details = details
        if status != GRPC_OK:
            stream.message = None
        self._events.append((ENDED, stream, b""))
        return 0

    cdef int _reset(self, Stream stream, uint32_t code, int status, str details) except -1:
        """End a stream with RST_STREAM and a status."""
        self._put_reset(stream, code)
        return self._end(stream, status, details)

    cdef int _reset_broken(self, Stream stream, str details) except -1:
        """End a stream on which the peer broke HTTP/2."""
        return self._reset(stream, PROTOCOL_ERROR, GRPC_INTERNAL, details)

    # Sending messages.

    cdef int _send(self, Stream stream, bytes message) except -1:
        """Send a message as far as the windows allow."""
        cdef unsigned char *out
        cdef uint32_t message_size = <uint32_t>PyBytes_GET_SIZE(message)
        cdef uint32_t size = message_size + PREFIX_BYTES
        if (
            size <= self._max_frame and size <= stream.send_window and size <= self._send_window
            and size_of(&stream.unsent) == 0
        ):
            out = self._put_data(stream, size, stream.is_finishing)
        else:
            out = extend(&stream.unsent, size)
            self.unsent_bytes += size
        out[0] = 0
        memcpy(put_32(out + 1, message_size), PyBytes_AS_STRING(message), message_size)
        if size_of(&stream.unsent):
            self._want_window(stream)
        return 0

    cdef unsigned char *_put_data(self, Stream stream, uint32_t size, bint is_last) except NULL:
        """Write the head of a DATA frame; return the place of its payload."""
        cdef unsigned char *out = extend(&self._out, HEAD_BYTES + size)
        stream.send_window -= size
        self._send_window -= size
        stream.is_finished = is_last
        explain(&self._flood, EXPLAINED_BY_FRAME + <int>(size // EXPLAINED_BYTES))
        return put_head(out, size, DATA_FRAME, END_STREAM if is_last else 0, stream.id)

    cdef int _want_window(self, Stream stream) except -1:
        """Go on with a stream that has something unsent, as far as the windows allow."""
        if stream.send_window > 0:
            join(&self._sending, &stream.sending, <void *>stream)
            self._send_waiting()
        return 0

    cdef int _send_waiting(self) except -1:
        """Let the streams in line send, a frame each in turn."""
        cdef Stream stream
        cdef uint32_t left, size
        while self._sending.first != NULL and self._send_window > 0:
            stream = <Stream>self._sending.first.owner
            leave(&self._sending, &stream.sending)
            left = <uint32_t>min(size_of(&stream.unsent), <size_t>self._max_frame)
            size = <uint32_t>min(<int64_t>left, stream.send_window, self._send_window)
            self._send_part(stream, size)
            if size_of(&stream.unsent) and stream.send_window > 0:
                join(&self._sending, &stream.sending, <void *>stream)
        return 0

    cdef int _send_part(self, Stream stream, uint32_t size) except -1:
        """Send the next bytes of what is unsent."""
        cdef bint is_rest = size == size_of(&stream.unsent)
        cdef unsigned char *out = self._put_data(stream, size, is_rest and stream.is_finishing)
        memcpy(out, front_of(&stream.unsent), size)
        stream.unsent.start += size
        self.unsent_bytes -= size
        if is_rest:
            free_buffer(&stream.unsent)
        return 0

    # Ends.

    cdef int _put_reset(self, Stream stream, uint32_t code) except -1:
        self._late_bytes = min(self._late_bytes + max(stream.window, <int64_t>0), self._budget)
        explain(&self._flood, EXPLAINED_BY_RESET)
        return append_number(&self._out, RST_STREAM_FRAME, stream.id, code)

    cdef int _put_goaway(self, uint32_t code, str text) except -1:
        cdef bytes data = text.encode("utf-8", "replace")[:MAX_DEBUG_BYTES]
        return append_goaway(
            &self._out, code, <const unsigned char *>PyBytes_AS_STRING(data), <uint32_t>len(data))

    cdef int _fail(self, uint32_t code, str reason) except -1:
        """End the connection: GOAWAY, and nothing is read any more."""
        if self.error_code < 0:
            self._put_goaway(code, reason)
            self.error_code = <int>code
            self._error = reason
        return 0

    # Limits.

    cdef int _charge(self, bint may_be_explained) except -1:
        """Take a token for a frame that brings nothing; without one, end the connection."""
        if may_be_explained and is_explained(&self._flood) or pay(&self._flood, self._now):
            return 0
        return self._fail(ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    cdef int _reply(self) except -1:
        """Count a frame that the peer caused; end the connection of one that does not read them."""
        self._replies += 1
        if self._replies > MAX_REPLIES:
            return self._fail(ENHANCE_YOUR_CALM, "too many frames to answer")
        return 0

    # Reading frames.

    cdef int _read(self, const unsigned char *data, size_t size) except -1:
        """Handle the frames that data completes; keep the rest."""
        cdef Frame frame
        cdef size_t used
        if size_of(&self._in):
            used = self._resume(data, size)
            data += used
            size -= used
        while size >= HEAD_BYTES and self.error_code < 0:
            read_head(&frame, data)
            if not self._is_legal(&frame) or size - HEAD_BYTES < frame.length:
                break
            data += HEAD_BYTES + frame.length
            size -= HEAD_BYTES + frame.length
            self._handle(&frame)
        if self.error_code < 0:
            append(&self._in, data, size)
        else:
            free_buffer(&self._in)
            free_buffer(&self._block)
        return 0

    cdef Py_ssize_t _resume(self, const unsigned char *data, size_t size) except -1:
        """Go on with the frame that is kept; return how many bytes of data it took."""
        cdef Frame frame
        cdef size_t used = 0
        cdef size_t need
        if size_of(&self._in) < HEAD_BYTES:
            used = min(HEAD_BYTES - size_of(&self._in), size)
            append(&self._in, data, used)
            if size_of(&self._in) < HEAD_BYTES:
                return used
        read_head(&frame, front_of(&self._in))
        if not self._is_legal(&frame):
            return used
        need = HEAD_BYTES + frame.length - size_of(&self._in)
        if size - used < need:
            append(&self._in, data + used, size - used)
            return size
        append(&self._in, data + used, need)
        read_head(&frame, front_of(&self._in))
        self._handle(&frame)
        clear(&self._in)
        return used + need

    cdef bint _is_legal(self, const Frame *frame) except -1:
        """Return whether a frame may have such a head; if not, end the connection."""
        if not self.is_ready and (frame.type != SETTINGS_FRAME or frame.flags & ACK):
            if memcmp(frame.data - HEAD_BYTES, b"HTTP/", 5) == 0:
                self._fail(PROTOCOL_ERROR, "the server answers in HTTP/1")
            else:
                self._fail(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            return False
        if frame.length > MAX_FRAME_BYTES:
            self._fail(FRAME_SIZE_ERROR, f"frame of {frame.length} bytes")
            return False
        return True

    cdef int _handle(self, Frame *frame) except -1:
        self.frames_received += 1
        if self._block_stream and (
            frame.type != CONTINUATION_FRAME or frame.stream != self._block_stream
        ):
            return self._fail(PROTOCOL_ERROR, "frame inside a header block")
        if frame.type == DATA_FRAME:
            return self._handle_data(frame)
        if frame.type == HEADERS_FRAME:
            return self._handle_headers(frame)
        if frame.type == WINDOW_UPDATE_FRAME:
            return self._handle_window_update(frame)
        if frame.type == PING_FRAME:
            return self._handle_ping(frame)
        if frame.type == SETTINGS_FRAME:
            return self._handle_settings(frame)
        if frame.type == RST_STREAM_FRAME:
            return self._handle_reset(frame)
        if frame.type == GOAWAY_FRAME:
            return self._handle_goaway(frame)
        if frame.type == CONTINUATION_FRAME:
            return self._handle_continuation(frame)
        if frame.type == PRIORITY_FRAME:
            return self._handle_priority(frame)
        if frame.type == PUSH_PROMISE_FRAME:
            return self._fail(PROTOCOL_ERROR, "PUSH_PROMISE where push is off")
        return self._charge(False)  # unknown ones are ignored (RFC 9113 4.1)

    cdef bint _is_used(self, const Frame *frame) except -1:
        """Return whether a frame is on a stream that was opened; if not, end the connection."""
        if frame.stream & 1 and frame.stream < self._next_id:
            return True
        self._fail(PROTOCOL_ERROR, f"frame of type {frame.type} on stream {frame.stream}")
        return False

    cdef bint _has_size(self, const Frame *frame, uint32_t size) except -1:
        """Return whether a frame has the size of its type; if not, end the connection."""
        if frame.length == size:
            return True
        self._fail(FRAME_SIZE_ERROR, f"frame of type {frame.type} and {frame.length} bytes")
        return False

    # Handling DATA.

    cdef int _handle_data(self, Frame *frame) except -1:
        cdef Stream stream
        if not self._is_used(frame):
            return 0
        if not strip_padding(frame):
            return self._fail(PROTOCOL_ERROR, "padding above the payload")
        self._uncredited += frame.length
        if self._uncredited >= CREDIT_STEP:
            append_number(&self._out, WINDOW_UPDATE_FRAME, 0, self._uncredited)
            self._uncredited = 0
        stream = self._find(frame.stream)
        if stream is None:
            return self._take_late(frame)
        if frame.size == 0 and not frame.flags & END_STREAM:
            self._charge(False)
        stream.window -= frame.length
        if stream.window < 0:
            return self._reset(
                stream, FLOW_CONTROL_ERROR, GRPC_INTERNAL, "DATA above the stream's window")
        if not stream.has_head:
            return self._reset_broken(stream, "DATA before the response head")
        self._last = stream
        self._take_data(stream, frame.data, frame.size)
        if stream.is_ended:
            return 0
        if frame.flags & END_STREAM:
            return self._conclude(stream, "END_STREAM without trailers")
        return self._top_up(stream)

    cdef int _take_late(self, const Frame *frame) except -1:
        """Drop DATA of a stream that is gone; it may have been under way when we reset it."""
        if 0 < frame.length <= self._late_bytes:
            self._late_bytes -= frame.length
            return 0
        return self._charge(True)

    cdef int _take_data(self, Stream stream, const unsigned char *data, uint32_t size) except -1:
        """Take messages, or parts of one, out of DATA."""
        cdef uint32_t part
        while size and not stream.is_ended:
            if stream.prefix_size < PREFIX_BYTES:
                part = min(<uint32_t>(PREFIX_BYTES - stream.prefix_size), size)
                memcpy(stream.prefix + stream.prefix_size, data, part)
                stream.prefix_size += part
                data += part
                size -= part
                if stream.prefix_size < PREFIX_BYTES or not self._take_prefix(stream):
                    break
                if stream.length <= size:  # short cut: the message is whole
                    self._deliver(
                        stream, PyBytes_FromStringAndSize(<const char *>data, stream.length))
                    data += stream.length
                    size -= stream.length
                    continue
            part = min(stream.length - stream.body_size, size)
            if part:
                stream.collect(data, part)
                data += part
                size -= part
                if stream.body_size == stream.length:
                    self._deliver(stream, stream.whole())
        if not stream.is_ended:
            self.buffered_bytes -= stream.counted
            stream.counted = stream.held()
            if stream.message is not None:
                stream.counted += PyBytes_GET_SIZE(stream.message)
            self.buffered_bytes += stream.counted
        return 0

    cdef bint _take_prefix(self, Stream stream) except -1:
        """Return whether the message behind a prefix may come; if not, end the stream."""
        stream.length = get_32(stream.prefix + 1)
        if stream.prefix[0] != 0:
            self._reset(stream, CANCEL, GRPC_INTERNAL, "compressed message where none is accepted")
        elif stream.length > self._max_message_bytes:
            self._reset(
                stream, CANCEL, GRPC_RESOURCE_EXHAUSTED,
                f"received message larger than max ({stream.length} vs. {self._max_message_bytes})")
        elif stream.is_unary and stream.message is not None:
            self._reset(stream, CANCEL, GRPC_INTERNAL, "more than one message in a unary answer")
        else:
            return True
        return False

    cdef int _deliver(self, Stream stream, bytes message) except -1:
        stream.prefix_size = 0
        if stream.is_unary:  # it stays here, and so does what it has reserved
            stream.message = message
            return 0
        self._events.append((MESSAGE, stream, message))
        if stream.reserved:
            self._release(stream)
            self._serve_waiting()
        return 0

    # Credit for streams.

    cdef int _top_up(self, Stream stream) except -1:
        """Give a stream the credit that its message needs, else what it may have, in steps."""
        cdef int64_t due = STREAM_WINDOW - stream.held() - stream.window
        cdef int64_t missing = 0
        if stream.message is None:  # else it takes what is reserved
            due += stream.reserved
        if stream.prefix_size == PREFIX_BYTES:
            missing = stream.length - stream.body_size + SLACK_BYTES - stream.window
        if missing <= due:
            leave(&self._waiting, &stream.waiting)
        elif self._reserve(stream, missing - due):
            due = missing
        if 0 < missing <= due or due >= STREAM_WINDOW // 2:
            stream.window += due
            append_number(&self._out, WINDOW_UPDATE_FRAME, stream.id, <uint32_t>due)
            return self._reply()
        return 0

    cdef bint _reserve(self, Stream stream, int64_t size) noexcept:
        """Reserve a part of the budget; return False where it has none: the stream then waits."""
        if self._reserved + size > self._budget or (
            self._waiting.first != NULL and self._waiting.first != &stream.waiting
        ):
            join(&self._waiting, &stream.waiting, <void *>stream)
            return False
        leave(&self._waiting, &stream.waiting)
        stream.reserved += size
        self._reserved += size
        return True

    cdef void _release(self, Stream stream) noexcept:
        self._reserved -= stream.reserved
        stream.reserved = 0

    cdef int _serve_waiting(self) except -1:
        """Give credit to the streams that wait for it, as far as the budget has room."""
        cdef Stream stream
        while self._waiting.first != NULL:
            stream = <Stream>self._waiting.first.owner
            self._top_up(stream)
            if is_in_line(&stream.waiting):
                break
        return 0

    # Handling header blocks.

    cdef int _handle_headers(self, Frame *frame) except -1:
        if not self._is_used(frame):
            return 0
        if not strip_padding(frame) or not strip_priority(frame):
            return self._fail(PROTOCOL_ERROR, "padding or priority above the payload")
        if frame.flags & END_HEADERS:
            return self._take_block(frame.data, frame.size, frame.stream, frame.flags)
        self._block_stream = frame.stream
        self._block_flags = frame.flags
        self._continuations = 0
        return append(&self._block, frame.data, frame.size)

    cdef int _handle_continuation(self, Frame *frame) except -1:
        cdef uint32_t stream_id = self._block_stream
        if stream_id == 0:
            return self._fail(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._continuations += 1
        if self._continuations > MAX_CONTINUATIONS:
            return self._fail(ENHANCE_YOUR_CALM, f"more than {MAX_CONTINUATIONS} CONTINUATIONs")
        if size_of(&self._block) + frame.size > MAX_BLOCK_BYTES:
            return self._fail(ENHANCE_YOUR_CALM, f"header block above {MAX_BLOCK_BYTES} bytes")
        append(&self._block, frame.data, frame.size)
        if frame.flags & END_HEADERS:
            self._block_stream = 0
            self._take_block(
                front_of(&self._block), size_of(&self._block), stream_id, self._block_flags)
            clear(&self._block)
        return 0

    cdef int _take_block(
        self, const unsigned char *data, size_t size, uint32_t stream_id, uint8_t flags
    ) except -1:
        """Decode a block, also one that nobody waits for: it may change the table."""
        cdef Stream stream
        cdef int verdict
        clear_head(&self._head)
        verdict = self._decoder.decode_block(data, size, read_field, &self._head)
        if verdict == HPACK_CORRUPT:
            return self._fail(COMPRESSION_ERROR, "corrupt header block")
        if verdict != HPACK_OK:
            return self._fail(ENHANCE_YOUR_CALM, f"header list above {MAX_LIST_BYTES} bytes")
        stream = self._find(stream_id)
        if stream is None:
            return self._charge(True)
        self._last = stream
        if stream.has_head:
            return self._take_trailers(stream, flags)
        return self._take_response(stream, flags)

    cdef int _take_response(self, Stream stream, uint8_t flags) except -1:
        """Take a response head, an informational one, or a response without a message."""
        cdef int http_status = self._head.http_status
        cdef bint is_informational = http_status < 200
        if self._head.is_malformed or http_status == 0 or http_status == 101:
            return self._reset_broken(stream, "malformed response head")
        if flags & END_STREAM:
            if is_informational:
                return self._reset_broken(stream, "END_STREAM on an informational response")
            return self._finish_by_trailers(stream)
        if is_informational:
            return self._charge(False)
        if http_status != 200:
            return self._reset(
                stream, CANCEL, status_of_http(http_status), f"HTTP status {http_status}")
        if not self._head.is_grpc:
            return self._reset(
                stream, CANCEL, GRPC_UNKNOWN, "HTTP status 200, content-type is not gRPC's")
        stream.has_head = True
        if not stream.is_unary:
            self._events.append((HEADERS, stream, b""))
        return 0

    cdef int _take_trailers(self, Stream stream, uint8_t flags) except -1:
        if self._head.is_malformed or self._head.http_status or not flags & END_STREAM:
            return self._reset_broken(stream, "malformed trailers")
        return self._finish_by_trailers(stream)

    cdef int _finish_by_trailers(self, Stream stream) except -1:
        """End a stream by the status in its last block."""
        cdef int status = self._head.grpc_status
        if status == NO_STATUS:
            return self._end_without_status(stream)
        if status == BAD_STATUS:
            return self._conclude(stream, "grpc-status is not a number", GRPC_UNKNOWN)
        if status == GRPC_OK:
            if stream.prefix_size:
                return self._conclude(stream, "the answer ends inside a message")
            if stream.is_unary and stream.message is None:
                return self._conclude(stream, "a unary answer without a message")
        stream.is_remote = True
        return self._conclude(stream, status_text(&self._head), status)

    cdef int _end_without_status(self, Stream stream) except -1:
        """End a stream whose last block has no grpc-status."""
        cdef int http_status = self._head.http_status
        if stream.has_head:
            return self._conclude(stream, "trailers without grpc-status", GRPC_UNKNOWN)
        if http_status != 200:
            return self._conclude(
                stream, f"HTTP status {http_status}", status_of_http(http_status))
        if not self._head.is_grpc:
            return self._conclude(
                stream, "HTTP status 200, content-type is not gRPC's", GRPC_UNKNOWN)
        return self._conclude(stream, "HTTP status 200 without grpc-status", GRPC_UNKNOWN)

    cdef int _conclude(self, Stream stream, str details, int status=GRPC_INTERNAL) except -1:
        """End a stream that the peer has ended; what we have not sent is dropped."""
        if not stream.is_finished:
            self._put_reset(stream, NO_ERROR)
        return self._end(stream, status, details)

    # Handling other frames.

    cdef int _handle_reset(self, Frame *frame) except -1:
        cdef Stream stream
        cdef uint32_t code
        if not self._has_size(frame, 4) or not self._is_used(frame):
            return 0
        stream = self._find(frame.stream)
        if stream is None:
            return self._charge(True)
        self.resets_received += 1
        code = get_32(frame.data)
        # A peer that has begun to answer has begun with the request, whatever it says.
        stream.is_unprocessed = code == REFUSED_STREAM and not stream.has_head
        return self._end(stream, status_of_reset(code), f"RST_STREAM {code_name(code)}")

    cdef int _handle_goaway(self, Frame *frame) except -1:
        cdef uint32_t last_id
        if frame.stream:
            return self._fail(PROTOCOL_ERROR, "GOAWAY on a stream")
        if frame.length < 8:
            return self._fail(FRAME_SIZE_ERROR, f"GOAWAY of {frame.length} bytes")
        last_id = get_32(frame.data) & MAX_STREAM_ID
        self.goaway_code = <int>min(get_32(frame.data + 4), <uint32_t>INT32_MAX)
        self.goaway_text = debug_text(frame.data + 8, frame.size - 8)
        self._events.append((GOAWAY, None, self.goaway_text.encode()))
        if last_id < self._last_id:
            self._last_id = last_id
            self._end_unprocessed()
        return self._charge(False)

    cdef int _end_unprocessed(self) except -1:
        """End the streams that the peer says it did not begin with."""
        cdef Stream stream
        cdef str details = self.goodbye
        for stream in list(self._streams.values()):
            if stream.id > self._last_id:
                stream.is_unprocessed = not stream.has_head
                self._end(stream, GRPC_UNAVAILABLE, details)
        return 0

    cdef int _handle_ping(self, Frame *frame) except -1:
        if not self._has_size(frame, PING_BYTES):
            return 0
        if frame.stream:
            return self._fail(PROTOCOL_ERROR, "PING on a stream")
        if not frame.flags & ACK:
            self.pings_answered += 1
            append_ping(&self._out, frame.data, ACK)
            self._reply()
        elif self._is_pinging and memcmp(frame.data, PyBytes_AS_STRING(PING_DATA), PING_BYTES) == 0:
            self._is_pinging = False
            self._events.append((PONG, None, b""))
            return 0
        return self._charge(True)

    cdef int _handle_priority(self, Frame *frame) except -1:
        if frame.stream == 0:
            return self._fail(PROTOCOL_ERROR, "PRIORITY on stream 0")
        if self._has_size(frame, 5):
            self._charge(False)
        return 0

    cdef int _handle_window_update(self, Frame *frame) except -1:
        cdef Stream stream
        cdef uint32_t credit
        if not self._has_size(frame, 4):
            return 0
        credit = get_32(frame.data) & MAX_WINDOW
        if frame.stream == 0:
            self._charge(True)
            return self._widen(credit)
        if not self._is_used(frame):
            return 0
        self._charge(True)
        stream = self._find(frame.stream)
        if stream is None:
            return 0
        if credit == 0:
            return self._reset_broken(stream, "WINDOW_UPDATE of 0")
        stream.send_window += credit
        if stream.send_window > MAX_WINDOW:
            return self._reset(
                stream, FLOW_CONTROL_ERROR, GRPC_INTERNAL, "WINDOW_UPDATE above the highest window")
        if size_of(&stream.unsent):
            self._want_window(stream)
        return 0

    cdef int _widen(self, uint32_t credit) except -1:
        """Take credit for the connection."""
        if credit == 0:
            return self._fail(PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        self._send_window += credit
        if self._send_window > MAX_WINDOW:
            return self._fail(FLOW_CONTROL_ERROR, "WINDOW_UPDATE above the highest window")
        return self._send_waiting()

    # Handling SETTINGS.

    cdef int _handle_settings(self, Frame *frame) except -1:
        cdef Settings values = Settings(self._initial_window, UINT32_MAX, -1)
        cdef uint32_t at
        if frame.stream:
            return self._fail(PROTOCOL_ERROR, "SETTINGS on a stream")
        if frame.flags & ACK:
            return self._charge(True) if self._has_size(frame, 0) else 0
        if frame.length % SETTING_BYTES:
            return self._fail(FRAME_SIZE_ERROR, f"SETTINGS of {frame.length} bytes")
        if self.is_ready:
            self._charge(False)
        else:
            self.max_streams = UINT32_MAX  # unless they say otherwise
        for at in range(0, frame.size, SETTING_BYTES):
            self._take_setting(get_16(frame.data + at), get_32(frame.data + at + 2), &values)
        if self.error_code >= 0:
            return 0
        self.settings_received += 1
        put_head(extend(&self._out, HEAD_BYTES), 0, SETTINGS_FRAME, ACK, 0)
        self._reply()
        if not self.is_ready:
            self.is_ready = True
            self._events.append((READY, None, b""))
        if values.table >= 0:
            self._encoder.resize(values.lowest_table)
            self._encoder.resize(<uint32_t>values.table)
        return self._move_windows(values.window)

    cdef int _take_setting(self, uint16_t name, uint32_t value, Settings *values) except -1:
        """Take one setting; those that cost more are used once, behind the last."""
        if name == MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif name == INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                return self._fail(FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            values.window = value
        elif name == MAX_FRAME_SIZE:
            if not MAX_FRAME_BYTES <= value <= LAST_FRAME_BYTES:
                return self._fail(PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._max_frame = min(value, <uint32_t>MAX_SEND_FRAME)
        elif name == HEADER_TABLE_SIZE:
            values.lowest_table = min(values.lowest_table, value)
            values.table = value
        elif name == ENABLE_PUSH and value:
            return self._fail(PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        return 0

    cdef int _move_windows(self, int64_t window) except -1:
        """Move the windows of all streams with INITIAL_WINDOW_SIZE; they may become negative."""
        cdef Stream stream
        cdef int64_t change = window - self._initial_window
        if change == 0:
            return 0
        self._initial_window = window
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                return self._fail(
                    FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE above a stream's highest window")
            if stream.send_window <= 0:
                leave(&self._sending, &stream.sending)
            elif size_of(&stream.unsent):
                join(&self._sending, &stream.sending, <void *>stream)
        return self._send_waiting()
