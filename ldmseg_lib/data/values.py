"""What a value in somebody's JSON means: flags, whole numbers and image ids, in the spellings that exporters use."""

from typing import Any

_INT_LIMIT = 1 << 62
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}


def as_flag(value: Any, default: int | None = None) -> int | None:
    """0 or 1 for 0, 1, true, false, 0.0, 1.0 and their texts; `default` for null; None for anything else.

    Fields such as iscrowd and isthing are read by this function alone: a cast would make "0" a 1.
    """
    if value is None:
        return default
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    # a list or a dict equals neither
    return int(value) if value in (0, 1) else None


def as_whole(value: Any) -> int | None:
    """The whole number of at least 0 that is written as 3, 3.0 or "3"; None for anything else, booleans too."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if is_id(value) else None


def is_id(value: Any) -> bool:
    """Whether `value` is an integer of at least 0, no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _INT_LIMIT


def is_image_id(value: Any) -> bool:
    """Whether `value` can name an image: an integer of at least 0, or a text, as in Cityscapes."""
    return is_id(value) or (isinstance(value, str) and 0 < len(value) < 1024 and "\0" not in value)


def other_spelling(image_id: Any) -> Any:
    """The text id of a number, and the number of a text id: what two files that disagree may have meant."""
    return as_whole(image_id) if isinstance(image_id, str) else str(image_id)
