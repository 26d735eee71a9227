"""Other people's text among ours: one line of characters that can be seen, so that it can neither move a cursor, nor
reorder what stands around it, nor pass for a line of our own.

Standard library only: the command line imports it for every command.
"""

from __future__ import annotations

from collections.abc import Callable


def printable(text: str) -> str:
    """Return the text with what cannot be seen escaped as in Python: controls (C0, C1), bidi and zero-width characters,
    line and paragraph separators, lone surrogates. Tabs and newlines stay.
    """
    if text.isprintable():
        return text
    return _escape(text, "\n\t", _escaped)


def one_line(text: str) -> str:
    """Return the text as one printable line: white space of any kind is one blank."""
    return " ".join(printable(" ".join(text.split())).split())


def indented(text: str) -> str:
    """Return the text as one printable line that keeps its blanks: a stack trace and a table are read by them."""
    return printable(" ".join(text.expandtabs(8).splitlines())).rstrip()


def json_text(text: str) -> str:
    """Return a JSON document with what cannot be seen escaped as in JSON; it means the same (RFC 8259 section 7)."""
    if text.isprintable():
        return text
    return _escape(text, "\n\r\t", _json_escaped)


def _escape(text: str, kept: str, escaped: Callable[[str], str]) -> str:
    """Return the text with each character that cannot be seen escaped, those `kept` excepted.

    Each is judged once, however often it occurs: the text is another's, and may have a million of them.
    """
    return text.translate({ord(c): c if c in kept or _is_seen(c) else escaped(c) for c in set(text)})


def _is_seen(c: str) -> bool:
    # A space that is not the ASCII one is not "printable" to Python, and harmless; U+2028 and U+2029 break lines.
    return c.isprintable() or (c.isspace() and c > "\x9f" and c not in "\u2028\u2029")


def _escaped(c: str) -> str:
    code = ord(c)
    if code < 0x100:
        return "\\r" if c == "\r" else f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(c: str) -> str:
    code = ord(c)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


_SPACES = bytes.maketrans(b"\r\n", b"  ")


def unbroken(json: bytes) -> bytes:
    """Return well-formed JSON without line breaks, for where a newline ends a message.

    Inside a JSON string a line break is always escaped, so those found are white space.
    """
    return json.translate(_SPACES) if b"\n" in json or b"\r" in json else json
