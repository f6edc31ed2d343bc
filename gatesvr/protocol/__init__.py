"""The session protocol without I/O, both roles (PROTOCOL)."""
