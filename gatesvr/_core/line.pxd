"""A line of objects that wait: first in, first out, and anyone may leave it."""

# Part of the object that waits, which outlives its stay in the line.
cdef struct Place:
    Place *before
    Place *behind
    void *owner  # NULL: not in the line

cdef struct Line:
    Place *first
    Place *last


cdef inline bint is_in_line(const Place *place) noexcept:
    return place.owner != NULL


cdef inline void join(Line *line, Place *place, void *owner) noexcept:
    """Put owner at the end; nothing where it waits already."""
    if place.owner != NULL:
        return
    place.owner = owner
    place.before = line.last
    place.behind = NULL
    if line.last == NULL:
        line.first = place
    else:
        line.last.behind = place
    line.last = place


cdef inline void leave(Line *line, Place *place) noexcept:
    """Take the owner out; nothing where it is not in the line."""
    if place.owner == NULL:
        return
    if place.before == NULL:
        line.first = place.behind
    else:
        place.before.behind = place.behind
    if place.behind == NULL:
        line.last = place.before
    else:
        place.behind.before = place.before
    place.owner = NULL
