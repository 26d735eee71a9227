"""What went wrong, in our words.

The text of an error of the HTTP stack may hold a URL with its secrets, or bytes of the other side; it is never passed
on. What is said here follows from the kinds and numbers of errors alone.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections import deque
from collections.abc import Iterator

import anyio
import httpcore2
import httpx2

CONNECT_SECS = 10.0
"""How long name, connection and TLS handshake may take together, each time for each."""

WRITE_SECS = 30.0
"""How long the other side may take nothing of what is sent to it."""

MOST_CAUSES = 64

_BROKE_OFF = "the connection broke off"
_NO_ROUTE = "there is no route to it"
_OS_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: _BROKE_OFF,
    errno.ECONNABORTED: _BROKE_OFF,
    errno.EPIPE: _BROKE_OFF,
    errno.ENETUNREACH: _NO_ROUTE,
    errno.EHOSTUNREACH: _NO_ROUTE,
    errno.ENETDOWN: "this machine's network is down",
    errno.EADDRNOTAVAIL: "this machine has no address or port left to reach it from",
    errno.ETIMEDOUT: "it does not answer",
    errno.EMFILE: "this process has no file descriptor left",
    errno.ENFILE: "this machine has no file descriptor left",
    errno.EACCES: "this machine does not permit the connection",
    errno.EPERM: "this machine does not permit the connection",
}

_UNTRUSTED = "its certificate is signed by nobody this machine trusts (ca_file names a private CA)"
_CERTIFICATE_WORDS = {
    2: _UNTRUSTED,  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
    7: _UNTRUSTED,  # X509_V_ERR_CERT_SIGNATURE_FAILURE: someone trusted has the same name
    9: "its certificate is not valid yet",  # X509_V_ERR_CERT_NOT_YET_VALID
    10: "its certificate has expired",  # X509_V_ERR_CERT_HAS_EXPIRED
    18: _UNTRUSTED,  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
    19: _UNTRUSTED,  # X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    20: _UNTRUSTED,  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: _UNTRUSTED,  # X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
    23: "its certificate is revoked",  # X509_V_ERR_CERT_REVOKED
    62: "its certificate is not for this host",  # X509_V_ERR_HOSTNAME_MISMATCH
    64: "its certificate is not for this host",  # X509_V_ERR_IP_ADDRESS_MISMATCH
}
_OLD_TLS = "it speaks no version of TLS that is still safe"
_TLS_WORDS = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS (is it http:// and not https:// ?)",
    "HTTP_REQUEST": "it does not speak TLS (is it http:// and not https:// ?)",
    "PACKET_LENGTH_TOO_LONG": "it does not speak TLS (is it http:// and not https:// ?)",
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a client certificate",
    "UNEXPECTED_EOF_WHILE_READING": _BROKE_OFF,
}


class InOurWords(Exception):
    """An error whose text is ours: no URL, no secret, nothing of the other side."""


def network_words(exc: BaseException) -> str:
    """Say what an error of the HTTP stack, of TLS or of the system means, as it follows "example.com: ".

    The first of an error and its causes that says something definite counts.
    """
    causes = list(_causes(exc))
    for cause in causes:
        words = _definite(cause)
        if words is not None:
            return words
    if any(isinstance(cause, _BROKEN) for cause in causes):
        return _BROKE_OFF
    if any(isinstance(cause, httpx2.RemoteProtocolError | httpcore2.RemoteProtocolError) for cause in causes):
        return "what it answers is not HTTP"
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return "no answer in time"
    return "the connection failed"


_BROKEN = (
    httpx2.NetworkError,
    httpcore2.NetworkError,
    ConnectionError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, nearest first.

    The stack hands the cause on as the first argument where it drops `__cause__`. `__context__` is not followed: it may
    be an earlier error of something else.
    """
    seen: set[int] = set()
    queue = deque([exc])
    while queue and len(seen) < MOST_CAUSES:
        current = queue.popleft()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            queue.extend(current.exceptions)
        if current.__cause__ is not None:
            queue.append(current.__cause__)
        elif current.args and isinstance(current.args[0], BaseException):
            queue.append(current.args[0])


def _definite(exc: BaseException) -> str | None:
    """Say what one error means by itself; None when it is too general."""
    match exc:
        case InOurWords():
            return str(exc)
        case ssl.SSLCertVerificationError():
            return _CERTIFICATE_WORDS.get(getattr(exc, "verify_code", 0), "its certificate cannot be verified")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return None
        case ssl.SSLError():
            return _TLS_WORDS.get(getattr(exc, "reason", None) or "", "no secure connection could be agreed on with it")
        case socket.gaierror() | UnicodeError():
            return "its name cannot be resolved"
        case OSError():
            return _OS_WORDS.get(exc.errno or 0)
        case httpx2.ConnectTimeout() | httpcore2.ConnectTimeout():
            return f"no connection within {CONNECT_SECS:g} s"
        case httpx2.WriteTimeout() | httpcore2.WriteTimeout():
            return f"it took nothing of the request for {WRITE_SECS:g} s"
        case httpx2.PoolTimeout() | httpcore2.PoolTimeout():
            return "too many requests to it are under way"
        case httpx2.TimeoutException() | httpcore2.TimeoutException():
            return "no answer in time"
        case httpx2.RemoteProtocolError() | httpcore2.RemoteProtocolError():
            return _remote_protocol(str(exc))
        case httpx2.LocalProtocolError() | httpcore2.LocalProtocolError():
            return "the request has a header or a URL that HTTP does not allow"
        case httpx2.UnsupportedProtocol() | httpcore2.UnsupportedProtocol() | httpx2.InvalidURL():
            return "its URL is not one of http or https"
    return None


def _remote_protocol(text: str) -> str | None:
    """Tell a connection that ended early from one that does not speak HTTP; the stack has one error for both."""
    if "without sending a response" in text:
        return "the connection broke off before the answer"
    if "closed connection" in text:
        return "the connection broke off in the middle of the answer"
    return None
