"""Where each value lies in a JSON text (RFC 8259): checks everything, decodes nothing.

NaN, Infinity and -Infinity, which Klippy sends, become null. Escaped lone surrogates pass as they are.
"""

MAX_DEPTH: int
"""Objects and arrays may be nested this deep."""

def members(text: bytes) -> dict[str, bytes]:
    """Return the raw value of each key of an object; the last of duplicates wins. SpanError: it is not valid."""

def elements(text: bytes) -> list[bytes]:
    """Return the raw elements of an array. SpanError: it is not valid."""

__pyx_capi__: dict[str, object]
"""For the other modules of the hot path: what jsonspan.pxd declares."""
