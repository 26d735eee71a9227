"""JSON that is made to take long, by the name of what is in it. Standard library only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def of(part: bytes, begin: bytes = b"[", end: bytes = b"]", last: bytes | None = None) -> Callable[[int], bytes]:
    """Return what repeats a part until there is so much. `last`: the last part, where that is another."""

    def made(size: int) -> bytes:
        return begin + part * (size // len(part) - 1) + (part.rstrip(b",") if last is None else last) + end

    return made


def text(part: bytes, last: bytes | None = None) -> Callable[[int], bytes]:
    return of(part, b'"', b'"', last)


def numbered(part: bytes, begin: bytes, end: bytes) -> Callable[[int], bytes]:
    """Return the same of parts that have a number each."""

    def made(size: int) -> bytes:
        return begin + b",".join(part % number for number in range(size // (len(part % 1_000_000) + 1))) + end

    return made


SHAPES: dict[str, Callable[[int], bytes]] = {
    "letters": text(b"x"),
    "blanks": of(b" ", last=b"0"),
    "line breaks": of(b"\n", last=b"0"),
    "escapes": text(rb"\n"),
    "escaped quotes": text(rb"\""),
    "escaped backslashes": text(rb"\\"),
    "escaped code points": text(rb"\u0430"),
    "escaped pairs": text(rb"\ud83d\ude00"),
    "two bytes each": text("é".encode()),
    "four bytes each": text("😀".encode()),
    "one of four bytes": text(b"x", "😀".encode()),
    "not UTF-8 at the end": text(b"x", b"\xff"),
    "not UTF-8 behind four bytes each": text("😀".encode(), b"\xff"),
    "half a pair at the end": text(rb"\u0430", rb"\ud83d"),
    "half a pair behind backslashes": text(rb"\\", rb"\ud83d"),
    "halves of pairs": text(rb"\ud83d"),
    "lists": of(b"[],"),
    "objects": of(b"{},"),
    "spikes": of(b"[" * 50 + b"]" * 50 + b","),
    "combs": of(b"[[[[[[[[[[0],[0]]]]]]]]]],"),
    "too deep": of(b"[" * 2000 + b"0" + b"]" * 2000 + b","),
    "a little too deep": of(b"[" * 70 + b"0" + b"]" * 70 + b","),
    "commas": of(b"0,"),
    "words": of(b"true,"),
    "empty strings": of(b'"",'),
    "strings": of(b'"ab",'),
    "strings of brackets": of(b'"[",'),
    "strings of commas": of(b'",,",'),
    "rows": of(b'{"name":"x","value":12,"list":["a"]},'),
    "floats": of(b"1.5e300,"),
    "a number": of(b"1", b"1", b""),
    "a fraction": of(b"1", b"0.", b""),
    "long numbers": of(b"1" * 1_000_000 + b","),
    "members": numbered(b'"%d":0', b"{", b"}"),
    "members of one name": of(b'"a":0,', b"{", b"}"),
    "long names": of(b'"' + b"k" * 100_000 + b'":0,', b"{", b"}"),
    "one long name": of(b"k", b'{"', b'":0}'),
    "names in escapes": of(rb'"\u0069\u0064":0,', b"{", b"}"),
    "isError": text(rb"\"isError\": tru"),
    "E": text(b"E"),
    "structuredContent": text(rb"\"structuredContent\""),
    "unended": of(b"0,", end=b""),
}
