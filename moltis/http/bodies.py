"""Bodies read up to a limit, compressed or not.

No compression is asked for, but there are servers, and CDNs before them, that compress all the same. A few bytes can
stand for gigabytes, so what is unpacked is bounded as what is sent, piece by piece; and whoever sends a body in a
million pieces does not get the event loop for itself.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing
from typing import Final

import anyio.lowlevel
import httpx2

from moltis.http.words import InOurWords

CRUMB_BYTES = 16 * 1024
PIECES_IN_A_ROW = 64
"""One read from the network may hold 10 000 pieces, which come without a pause and take 0.3 s."""
PART_BYTES: Final = 32 * 1024
"""Of what is unpacked at once."""
UNPACKED_RATIO: Final = 64
"""JSON and events are packed to a tenth or so; what is beyond this and the limit is there to do harm."""

GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_PLAIN: Final = frozenset({"", "identity"})
_ALIASES: Final = {"x-gzip": "gzip"}
_COMPRESSED: Final = frozenset(
    {
        *("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz", "exi", "pack200-gzip"),
        *("aes128gcm", "bzip2", "lz4", "lzma", "snappy", "xz"),
    }
)
"""HTTP content codings (IANA) that change the body, and some that are not registered."""


class BodyTooLarge(InOurWords):
    """A body is longer than what is taken of it."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"its answer is longer than {limit} bytes")
        self.limit = limit


class BodyEncoded(InOurWords):
    """A body is compressed in a way that cannot be unpacked here, or is not what it says.

    coding: its name, at most 40 plain characters.
    """

    def __init__(self, coding: str, words: str = "is compressed by {}, though it was asked not to be") -> None:
        super().__init__(f"its answer {words.format(coding)}")
        self.coding = coding


def coding_of(encoding: str | None) -> str:
    """Return how a body is compressed by its Content-Encoding: `gzip`, `deflate`, or empty for not at all.

    What names no compression (`utf-8`, `none`, `aws-chunked`) counts as none: the body itself shows what it is.

    Raises:
        BodyEncoded: by something else, or more than once.
    """
    if encoding is None:
        return ""
    codings = [name for name in (part.strip().lower() for part in encoding.split(",")) if name not in _PLAIN]
    packed = [_ALIASES.get(name, name) for name in codings if name in _COMPRESSED]
    if not packed:
        return ""
    if len(packed) > 1 or packed[0] not in ("gzip", "deflate"):
        raise BodyEncoded(", ".join(packed)[:40])
    return packed[0]


def unpacked(pieces: AsyncGenerator[bytes], encoding: str | None, limit: int) -> AsyncGenerator[bytes]:
    """Return the pieces of a body, unpacked if `encoding` says that they are packed; closed with what is returned.

    limit: of what may be unpacked beyond `UNPACKED_RATIO` times what was sent.

    Raises:
        BodyEncoded: it is compressed by something else. While it is read: it is no such thing, or more than that.
    """
    coding = coding_of(encoding)
    return in_turn(_unpack(pieces, coding, limit)) if coding else pieces


async def _unpack(pieces: AsyncGenerator[bytes], coding: str, limit: int) -> AsyncGenerator[bytes]:
    unpacker: Unpacker | None = None
    budget = limit
    async with aclosing(pieces):
        async for piece in pieces:
            if not piece:
                continue
            if unpacker is None:
                unpacker = Unpacker(coding)
            budget += UNPACKED_RATIO * len(piece)
            for part in unpacker.feed(piece):
                budget -= len(part)
                if budget < 0:
                    raise BodyEncoded(coding, "is so much larger than what was sent ({}) that it is not unpacked")
                yield part


class Unpacker:
    """Unpacks one body, in parts of at most `PART_BYTES`. Pure.

    A body that is plain after all, because somebody on the way unpacked it and left the label, is passed on as it is.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._head = b""
        self._begun = False
        self._plain = False
        self._done = False
        self._zlib = zlib.decompressobj(GZIP_WINDOW)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was sent next, and yield what it unpacks to.

        Raises:
            BodyEncoded: it is no such thing.
        """
        if self._done:
            return
        if not self._begun:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            self._begin(data)
        if self._plain:
            yield data
            return
        try:
            while data and not self._done:
                if self._zlib.eof:  # RFC 1952: members follow one another; anything else is padding
                    self._done = self._coding != "gzip" or not data.startswith(GZIP_MAGIC[:1])
                    self._zlib = zlib.decompressobj(GZIP_WINDOW)
                    continue
                part = self._zlib.decompress(data, PART_BYTES)
                if part:
                    yield part
                data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        except zlib.error as error:
            raise BodyEncoded(self._coding, "says that it is {}, and cannot be unpacked") from error

    def _begin(self, data: bytes) -> None:
        self._begun = True
        if self._coding == "gzip":
            self._plain = not data.startswith(GZIP_MAGIC)
        else:
            # RFC 9110 section 8.4.1.2 means the zlib format; some send what is in it alone.
            wrapped = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)


async def read_capped(response: httpx2.Response, limit: int) -> bytes:
    """Read the body of a response of `server_client` that is being streamed, unpacked, and close it.

    Raises:
        BodyTooLarge: there are more than `limit` bytes; no more than that and one piece (512 KiB) was in memory.
        BodyEncoded: it is compressed by what is not known here, and nothing of it was read; or it cannot be unpacked.
        httpx2.TransportError: the connection broke off.
    """
    try:
        headers = response.headers
        pieces = unpacked(response.aiter_raw(), headers.get("content-encoding"), limit)
        return await collect(pieces, limit, headers.get("content-length"))
    finally:
        await response.aclose()


async def collect(pieces: AsyncGenerator[bytes], limit: int, announced: str | None = None) -> bytes:
    """Join the pieces of a body, which come `in_turn`; they are closed in any case.

    announced: the Content-Length value, so that what is too long is refused before any of it is read.

    Raises:
        BodyTooLarge: there are more than `limit` bytes.
    """
    async with aclosing(pieces):
        if announced is not None and announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise BodyTooLarge(limit)
        # Joined once at the end: a megabyte that grows piece by piece is moved each time, which takes longer than to
        # read it. But a piece of one byte must not cost fifty, so crumbs are gathered first.
        whole: list[bytes] = []
        crumbs = bytearray()
        length = 0
        async for piece in pieces:
            length += len(piece)
            if length > limit:
                raise BodyTooLarge(limit)
            if len(piece) < CRUMB_BYTES:
                crumbs += piece
                if len(crumbs) < CRUMB_BYTES:
                    continue
                piece = bytes(crumbs)
                crumbs.clear()
            elif crumbs:
                whole.append(bytes(crumbs))
                crumbs.clear()
            whole.append(piece)
        return b"".join((*whole, crumbs))


async def in_turn(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Pass pieces on, and let others run now and then even when there is always one more."""
    count = 0
    source = aiter(pieces)
    try:
        async for piece in source:
            yield piece
            count += 1
            if count % PIECES_IN_A_ROW == 0:
                await anyio.lowlevel.checkpoint()
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
