"""Whom to trust. There is no way to trust everybody.

The system's certificates, or those that SSL_CERT_FILE or SSL_CERT_DIR put in their place, and beside them whatever
`ca_file` holds: a root, an intermediate or a server's own certificate.
"""

from __future__ import annotations

import os
import ssl
import stat
from functools import lru_cache

import httpcore2

from moltis.http.words import InOurWords

MAX_CA_FILE_BYTES = 16 * 1024 * 1024


class CaFileError(InOurWords):
    """`ca_file` cannot be read, or holds no certificate; or what the environment names instead of the system's."""


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS settings of a client: certificates and host names are always verified, TLS 1.2 at least.

    They are for HTTP/1.1 and say so (ALPN, RFC 7301). Reading the system's certificates takes 20 ms; it is done once,
    and once more for each `ca_file` and each time it changes. Whoever must not wait calls it in a thread first.

    Raises:
        CaFileError: `ca_file`, or what SSL_CERT_FILE names, cannot be read, or holds no certificate.
    """
    if ca_file is None:
        return _context(None, None)
    try:
        found = os.stat(ca_file)
    except (OSError, ValueError) as error:
        raise CaFileError(f"ca_file {ca_file!r} cannot be read: {_reason(error)}") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_CA_FILE_BYTES:
        raise CaFileError(f"ca_file {ca_file!r} is no file of certificates")
    return _context(ca_file, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=16)
def _context(ca_file: str | None, version: tuple[int, int, int] | None) -> ssl.SSLContext:
    """Build the settings once for each version of a file."""
    try:
        context = httpcore2.default_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise CaFileError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {_reason(error)}") from None
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise CaFileError(f"ca_file {ca_file!r} cannot be used: {_reason(error)}") from None
        # What the file names is trusted itself, even if it is not the root of its chain.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "it holds no certificate in PEM form"
    return getattr(error, "strerror", None) or "it is no path"
