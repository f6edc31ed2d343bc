"""The map of gatesvr._core.http2: a connection, its streams and what each of them holds."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from gatesvr._core.buffer cimport Buffer
from gatesvr._core.frame cimport Frame
from gatesvr._core.flood cimport Flood
from gatesvr._core.hpack cimport HpackDecoder
from gatesvr._core.line cimport Line, Place
from gatesvr._core.request cimport RequestEncoder
from gatesvr._core.response cimport Head

cdef enum:  # what we announce
    STREAM_WINDOW = 65_535  # bytes; INITIAL_WINDOW_SIZE, the default
    SLACK_BYTES = 512  # of window beyond a message in progress, for its padding
    CONNECTION_WINDOW = 8 << 20  # bytes
    CREDIT_STEP = 2 << 20  # bytes of the connection's window given back at once
    MAX_LIST_BYTES = 64 << 10  # of a decoded header list, as RFC 9113 6.5.2 counts
    TABLE_BYTES = 4096  # of either HPACK table, the default

cdef enum:  # what we take
    MAX_BLOCK_BYTES = 64 << 10  # of a header block
    MAX_CONTINUATIONS = 128  # frames behind one HEADERS
    MIN_BUDGET = 64 << 20  # bytes; beyond it, four of the largest message
    MAX_REPLIES = 20_000  # acks and stream credits between two take()
    MAX_DEBUG_BYTES = 256  # of a GOAWAY's text
    MIN_BODY = 512  # bytes: first memory of a message that comes in parts
    SETTING_BYTES = 6
    PREFIX_BYTES = 5  # in front of each message: a flag and its length

cdef enum:  # of what we send
    ASSUMED_STREAMS = 100  # MAX_CONCURRENT_STREAMS before the peer's SETTINGS
    MAX_SEND_FRAME = 64 << 10  # bytes, where the peer takes as many

cpdef enum:  # kinds of events, for Python
    HEADERS = 1
    MESSAGE = 2
    ENDED = 3
    GOAWAY = 4
    PONG = 5
    READY = 6

cpdef enum:  # error codes, for Python (RFC 9113 7)
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13

# What a SETTINGS frame says, as far as it costs more than a field to set.
cdef struct Settings:
    int64_t window  # INITIAL_WINDOW_SIZE
    uint32_t lowest_table  # the lowest HEADER_TABLE_SIZE of the frame (RFC 7541 4.2)
    int64_t table  # the last, -1 for none


cdef class Stream:
    # --- for the owner
    cdef public object owner
    cdef readonly uint32_t id
    cdef readonly bint is_unary
    cdef readonly bint is_ended
    cdef readonly bint is_remote
    cdef readonly bint is_unprocessed
    cdef readonly int status
    cdef readonly str details
    cdef readonly bytes message
    # --- sending
    cdef bint is_finishing  # END_STREAM is due behind what is unsent
    cdef bint is_finished  # END_STREAM was written
    cdef int64_t send_window  # bytes; below 0 after a smaller INITIAL_WINDOW_SIZE
    cdef Buffer unsent  # messages with their prefixes, as far as the peer's windows hold them up
    cdef Place sending  # in the line of those that wait for the connection's window only
    # --- receiving
    cdef bint has_head
    cdef int64_t window  # bytes that the peer may still send
    cdef int64_t reserved  # bytes of the connection's budget
    cdef Place waiting  # in the line of those that wait for the budget
    cdef unsigned char prefix[PREFIX_BYTES]  # of the message in progress
    cdef int prefix_size  # bytes of it that have come
    cdef uint32_t length  # of the message in progress; valid from prefix_size 5 on
    cdef PyObject *body  # owned bytes object that grows with what comes, or NULL
    cdef uint32_t body_size  # bytes of it that have come
    cdef int64_t counted  # bytes of it in the connection's buffered_bytes

    cdef int64_t held(self) noexcept
    cdef int collect(self, const unsigned char *data, uint32_t size) except -1
    cdef bytes whole(self)
    cdef void free(self) noexcept


cdef class Http2Connection:
    # --- ends
    cdef str _error
    cdef readonly int error_code
    cdef readonly bint is_ready
    cdef readonly int goaway_code
    cdef readonly str goaway_text
    cdef bint _is_closing  # our GOAWAY is written
    # --- figures
    cdef readonly uint64_t frames_received
    cdef readonly uint64_t pings_answered
    cdef readonly uint64_t settings_received
    cdef readonly uint64_t resets_received
    cdef readonly int64_t unsent_bytes
    cdef readonly int64_t buffered_bytes
    # --- streams
    cdef dict _streams  # id -> open stream
    cdef Stream _last  # the last that a frame was for, while it is open
    cdef uint32_t _next_id
    cdef uint32_t _last_id  # of the peer's GOAWAY, the lowest so far
    cdef readonly uint32_t max_streams
    # --- sending
    cdef Buffer _out
    cdef uint32_t _replies  # frames in _out that the peer caused
    cdef bint _is_pinging
    cdef RequestEncoder _encoder
    cdef int64_t _send_window
    cdef int64_t _initial_window  # the peer's INITIAL_WINDOW_SIZE
    cdef uint32_t _max_frame  # bytes of a frame that the peer takes
    cdef Line _sending
    # --- receiving
    cdef uint32_t _max_message_bytes
    cdef Buffer _in  # an incomplete frame
    cdef list _events  # of the receive() that runs
    cdef HpackDecoder _decoder
    cdef Buffer _block  # a header block whose end is to come
    cdef uint32_t _block_stream  # its stream, 0 for none
    cdef uint8_t _block_flags  # of its HEADERS
    cdef int _continuations  # frames of it
    cdef Head _head  # the last block, decoded
    cdef uint32_t _uncredited  # bytes that have come and are not given back
    cdef int64_t _late_bytes  # bytes of DATA that may be under way on streams that we reset
    cdef int64_t _reserved  # bytes of the budget, sum over the streams
    cdef int64_t _budget
    cdef Line _waiting
    # --- limit of frames that bring nothing
    cdef double _now  # of the receive() that runs
    cdef Flood _flood

    cdef int64_t _room(self) noexcept
    cdef Stream _find(self, uint32_t stream_id)
    cdef bint _is_open(self, Stream stream) except -1
    cdef Stream _begin(self, str path, object owner, int64_t timeout_ms, object metadata)
    cdef int _drop(self, Stream stream) except -1
    cdef int _end(self, Stream stream, int status, str details) except -1
    cdef int _reset(self, Stream stream, uint32_t code, int status, str details) except -1
    cdef int _reset_broken(self, Stream stream, str details) except -1
    cdef int _send(self, Stream stream, bytes message) except -1
    cdef unsigned char *_put_data(self, Stream stream, uint32_t size, bint is_last) except NULL
    cdef int _want_window(self, Stream stream) except -1
    cdef int _send_waiting(self) except -1
    cdef int _send_part(self, Stream stream, uint32_t size) except -1
    cdef int _put_reset(self, Stream stream, uint32_t code) except -1
    cdef int _put_goaway(self, uint32_t code, str text) except -1
    cdef int _fail(self, uint32_t code, str reason) except -1
    cdef int _charge(self, bint may_be_explained) except -1
    cdef int _reply(self) except -1
    cdef int _read(self, const unsigned char *data, size_t size) except -1
    cdef Py_ssize_t _resume(self, const unsigned char *data, size_t size) except -1
    cdef bint _is_legal(self, const Frame *frame) except -1
    cdef int _handle(self, Frame *frame) except -1
    cdef bint _is_used(self, const Frame *frame) except -1
    cdef bint _has_size(self, const Frame *frame, uint32_t size) except -1
    cdef int _handle_data(self, Frame *frame) except -1
    cdef int _take_late(self, const Frame *frame) except -1
    cdef int _take_data(self, Stream stream, const unsigned char *data, uint32_t size) except -1
    cdef bint _take_prefix(self, Stream stream) except -1
    cdef int _deliver(self, Stream stream, bytes message) except -1
    cdef int _top_up(self, Stream stream) except -1
    cdef bint _reserve(self, Stream stream, int64_t size) noexcept
    cdef void _release(self, Stream stream) noexcept
    cdef int _serve_waiting(self) except -1
    cdef int _handle_headers(self, Frame *frame) except -1
    cdef int _handle_continuation(self, Frame *frame) except -1
    cdef int _take_block(
        self, const unsigned char *data, size_t size, uint32_t stream_id, uint8_t flags
    ) except -1
    cdef int _take_response(self, Stream stream, uint8_t flags) except -1
    cdef int _take_trailers(self, Stream stream, uint8_t flags) except -1
    cdef int _finish_by_trailers(self, Stream stream) except -1
    cdef int _end_without_status(self, Stream stream) except -1
    cdef int _conclude(self, Stream stream, str details, int status=*) except -1
    cdef int _handle_reset(self, Frame *frame) except -1
    cdef int _handle_goaway(self, Frame *frame) except -1
    cdef int _end_unprocessed(self) except -1
    cdef int _handle_ping(self, Frame *frame) except -1
    cdef int _handle_priority(self, Frame *frame) except -1
    cdef int _handle_window_update(self, Frame *frame) except -1
    cdef int _widen(self, uint32_t credit) except -1
    cdef int _handle_settings(self, Frame *frame) except -1
    cdef int _take_setting(self, uint16_t name, uint32_t value, Settings *values) except -1
    cdef int _move_windows(self, int64_t window) except -1
