"""The map of gatesvr._core.http2: a connection, its streams and what each of them holds."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gatesvr._core.buffer cimport Buffer
from gatesvr._core.hpack cimport HpackDecoder, HpackEncoder
from gatesvr._core.line cimport Line, Place
from gatesvr._core.response cimport Head

cdef enum:  # what we announce
    STREAM_WINDOW = 65_535  # bytes; INITIAL_WINDOW_SIZE, the default
    CONNECTION_WINDOW = 8 << 20  # bytes
    CREDIT_STEP = 2 << 20  # bytes of the connection's window given back at once
    MAX_LIST_BYTES = 64 << 10  # of a decoded header list, as RFC 9113 6.5.2 counts
    TABLE_BYTES = 4096  # of either HPACK table, the default

cdef enum:  # what we take
    MAX_BLOCK_BYTES = 64 << 10  # of a header block
    MAX_CONTINUATIONS = 128  # frames behind one HEADERS
    MIN_BUDGET = 64 << 20  # bytes; beyond it, four of the largest message
    MAX_DEBUG_BYTES = 256  # of a GOAWAY's text

cdef enum:  # frames that bring nothing
    FLOOD_BURST = 2_000  # frames
    FLOOD_RATE = 1_000  # frames a second
    MAX_EXPLAINED = 1 << 16  # frames that ours explain, at most
    EXPLAINED_BY_FRAME = 4  # WINDOW_UPDATEs of both levels, a PING that measures, a RST_STREAM
    EXPLAINED_BY_RESET = 16  # frames under way when our RST_STREAM arrives
    MAX_REPLIES = 20_000  # acks and RST_STREAMs that the peer causes between two take()

cdef enum:  # of what we send
    ASSUMED_STREAMS = 100  # MAX_CONCURRENT_STREAMS before the peer's SETTINGS
    MAX_SEND_FRAME = 64 << 10  # bytes, where the peer takes as many
    MAX_PATHS = 1024  # paths whose request head is kept

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


# The constant part of a request's header block.
cdef class RequestHead:
    cdef list fields
    cdef bytes block  # None: to be encoded
    cdef uint64_t inserted  # the encoder's, when block was encoded: while it stays, block is good


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
    cdef unsigned char prefix[5]  # of the message in progress
    cdef int prefix_size  # bytes of it that have come
    cdef uint32_t length  # of the message in progress; valid from prefix_size 5 on
    cdef PyObject *body  # owned bytes object that grows with what comes, or NULL
    cdef uint32_t body_size  # bytes of it that have come

    cdef int64_t held(self) noexcept
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
    cdef uint32_t _next_id
    cdef readonly uint32_t max_streams
    # --- sending
    cdef Buffer _out
    cdef uint32_t _replies  # frames in _out that the peer caused
    cdef bint _is_pinging
    cdef HpackEncoder _encoder
    cdef list _common  # fields of every request
    cdef dict _heads  # path -> RequestHead
    cdef bytes _timeout_name  # how grpc-timeout begins, encoded; None: to be encoded
    cdef uint64_t _timeout_inserted  # the encoder's, when it was encoded
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
    cdef int64_t _window  # bytes that the peer may still send
    cdef int64_t _reserved  # bytes of the budget, sum over the streams
    cdef int64_t _budget
    cdef Line _waiting
    # --- limit of frames that bring nothing
    cdef double _now
    cdef double _tokens
    cdef double _tokens_at
    cdef int64_t _explained
