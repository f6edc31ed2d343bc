"""Compiled core: queue, codec, datagrams, limits and HTTP/2; imports only errors."""

from importlib.util import find_spec as _find_spec

if _missing := [
    name
    for name in ("queue", "codec", "udp", "limits", "http2")
    if _find_spec(f"{__name__}.{name}") is None
]:
    raise ImportError(
        f"the compiled core of GateSvr is missing ({', '.join(_missing)}): install a wheel for this"
        " Python, or build it in a checkout: pip install --editable .",
        name=__name__,
    )
