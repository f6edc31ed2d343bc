"""A limit of frames that bring nothing: each takes a token.

What we send explains some of a peer's frames: a request is answered with WINDOW_UPDATEs of both
levels and a PING that measures, a RST_STREAM crosses what is under way. Time brings other tokens.
"""
from libc.math cimport fmax
from libc.stdint cimport int64_t

cdef enum:
    FLOOD_BURST = 2_000  # frames
    FLOOD_RATE = 1_000  # frames a second
    MAX_EXPLAINED = 1 << 16  # frames
    EXPLAINED_BY_FRAME = 4  # frames that a HEADERS or DATA of ours explains,
    EXPLAINED_BYTES = 4 << 10  # and one more for each so many bytes of DATA
    EXPLAINED_BY_RESET = 16

cdef struct Flood:
    double level  # tokens that are missing from a full bucket
    double seen_at  # seconds; when level was right
    int64_t explained  # frames


cdef inline void explain(Flood *flood, int frames) noexcept nogil:
    """Let the peer send some frames."""
    flood.explained = min(flood.explained + frames, <int64_t>MAX_EXPLAINED)


cdef inline bint pay(Flood *flood, double now) noexcept nogil:
    """Take a token of time's; return whether there was one."""
    if now > flood.seen_at:
        flood.level = fmax(0, flood.level - (now - flood.seen_at) * FLOOD_RATE)
        flood.seen_at = now
    if flood.level > FLOOD_BURST - 1:
        return False
    flood.level += 1
    return True


cdef inline bint is_explained(Flood *flood) noexcept nogil:
    """Return whether what we sent explains a frame, and count it."""
    if flood.explained > 0:
        flood.explained -= 1
        return True
    return False
