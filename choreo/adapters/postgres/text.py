"""Text as PostgreSQL keeps it: it has no NUL, and no half of a surrogate pair."""

from __future__ import annotations

__all__ = ["kept", "numbers_text", "shown", "told"]


def kept(text: str) -> str:
    """Give a name or key as it is kept: no two become the same."""
    if "\\" not in text and "\0" not in text and _encodes(text):
        return text
    return "".join(
        f"\\{ord(one):x};" if one in "\\\0" or "\ud800" <= one <= "\udfff" else one for one in text
    )


def told(text: str) -> str:
    """Give back what was `kept`."""
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    parts = (piece.partition(";") for piece in rest)
    return first + "".join(chr(int(code, 16)) + after for code, _, after in parts)


def numbers_text(numbers: list[int]) -> str:
    """Write whole numbers as the text of an array, for a parameter that is cast to one.

    The client takes six times as long for a list: it looks whether each element is a list too.
    """
    return f"{{{str(numbers)[1:-1]}}}"


def shown(text: str) -> str:
    """Give text that people read, with what can not be kept replaced."""
    if "\0" not in text and _encodes(text):
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _encodes(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
