"""message(): a protobuf message, or a TypeError that names the parameter that does not fit."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["message"]

M = TypeVar("M", bound=Message)

_EXPECTED = {FieldDescriptor.TYPE_STRING: "str", FieldDescriptor.TYPE_BYTES: "bytes"}


def message(kind: type[M], **fields: Any) -> M:
    """Return a message of a kind.

    Raises:
        TypeError, ValueError: A field's value does not fit; the message names it.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raise type_error(kind, name, value, error) from None
        raise


def type_error(kind: type[M], name: str, value: object, error: Exception) -> Exception:
    """Return the error of a value that does not fit its field."""
    found = type(value).__name__
    field = kind.DESCRIPTOR.fields_by_name.get(name)
    if field is not None and field.message_type is not None:
        return TypeError(f"{name} must map str to str, not {value!r:.100}")
    expected = _EXPECTED.get(field.type) if field is not None else None
    if expected is not None and not isinstance(value, str):
        return TypeError(f"{name} must be {expected}, not {found}")
    if expected == "bytes":
        return TypeError(f"{name} must be bytes, not {found}")
    return ValueError(f"{name} does not fit: {error}")
