"""Refuses a client's parameters of a wrong type, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError

__all__ = ["check_text", "check_texts", "check_type"]


def check_type(name: str, value: object, kind: type, words: str = "") -> None:
    """Refuse a value that is not of kind.

    Raises:
        TypeError: It is not; the message names the parameter.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {words or kind.__name__}, not {type(value).__name__}")


def check_text(name: str, value: object) -> None:
    """Refuse what is no text, or is none that UTF-8 can carry.

    Raises:
        TypeError: It is no str.
        ConfigError: It has half of a surrogate pair, as a byte of an argument that is no UTF-8.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{value!r:.64} cannot be written as UTF-8", field=name) from None


def check_texts(name: str, texts: object) -> None:
    """Refuse what is no mapping from text to text.

    Raises:
        TypeError: It is none; the message names the parameter and the key.
        ConfigError: A text cannot be written as UTF-8.
    """
    if not isinstance(texts, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(texts).__name__}")
    for key, value in texts.items():
        check_text(f"a key of {name}", key)
        check_text(f"{name}[{key!r:.64}]", value)
