"""What went wrong is said in our words, whatever the error holds."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import anyio
import httpcore2
import httpx2
import pytest
from made_certificates import DAY, Authority
from ports import free_port
from scripted_http import JSON, OK, blurting, ending, saying, serving

from moltis.http.bodies import BodyEncoded, BodyTooLarge
from moltis.http.clients import server_client
from moltis.http.words import network_words

SECRET = "s3cret-in-the-text"


def caused(outer: Exception, *causes: Exception) -> Exception:
    """An error with its chain of causes."""
    for above, below in zip((outer, *causes), causes, strict=False):
        above.__cause__ = below
    return outer


def certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, SECRET)
    error.verify_code = code
    return error


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, SECRET)
    error.reason = reason
    return error


ERRORS: dict[str, list[BaseException]] = {
    "connection refused": [
        ConnectionRefusedError(errno.ECONNREFUSED, SECRET),
        httpcore2.ConnectError(OSError(errno.ECONNREFUSED, SECRET)),
        caused(httpx2.ConnectError(SECRET), httpcore2.ConnectError(ConnectionRefusedError(errno.ECONNREFUSED, ""))),
        caused(
            httpx2.ConnectError(SECRET),
            OSError(SECRET),
            ExceptionGroup(SECRET, [OSError(SECRET), OSError(errno.ECONNREFUSED, SECRET)]),
        ),
    ],
    "its name cannot be resolved": [
        httpcore2.ConnectError(socket.gaierror(socket.EAI_NONAME, SECRET)),
        caused(httpx2.NetworkError(SECRET), UnicodeError(SECRET)),
    ],
    "there is no route to it": [OSError(errno.ENETUNREACH, SECRET), OSError(errno.EHOSTUNREACH, SECRET)],
    "this process has no file descriptor left": [OSError(errno.EMFILE, SECRET)],
    "the connection broke off": [
        ConnectionResetError(errno.ECONNRESET, SECRET),
        BrokenPipeError(errno.EPIPE, SECRET),
        httpx2.ReadError(SECRET),
        httpx2.WriteError(SECRET),
        httpcore2.ReadError(anyio.BrokenResourceError()),
        ssl.SSLEOFError(8, SECRET),
        tls("UNEXPECTED_EOF_WHILE_READING"),
        anyio.EndOfStream(),
    ],
    "the connection broke off before the answer": [
        httpx2.RemoteProtocolError("Server disconnected without sending a response.")
    ],
    "the connection broke off in the middle of the answer": [
        httpcore2.RemoteProtocolError("peer closed connection without sending complete message body (...)")
    ],
    "what it answers is not HTTP": [httpx2.RemoteProtocolError(SECRET)],
    "the request has a header or a URL that HTTP does not allow": [httpx2.LocalProtocolError(SECRET)],
    "its URL is not one of http or https": [httpx2.UnsupportedProtocol(SECRET), httpx2.InvalidURL(SECRET)],
    "no connection within 10 s": [caused(httpx2.ConnectTimeout(SECRET), httpcore2.ConnectTimeout(TimeoutError()))],
    "it took nothing of the request for 30 s": [httpx2.WriteTimeout(SECRET)],
    "too many requests to it are under way": [httpx2.PoolTimeout(SECRET)],
    "no answer in time": [httpx2.ReadTimeout(SECRET), TimeoutError(SECRET), TimeoutError()],
    "it does not answer": [TimeoutError(errno.ETIMEDOUT, SECRET)],
    "its certificate has expired": [caused(httpx2.ConnectError(SECRET), certificate(10))],
    "its certificate is not valid yet": [certificate(9)],
    "its certificate is not for this host": [certificate(62), certificate(64)],
    "its certificate is signed by nobody this machine trusts (ca_file names a private CA)": [
        certificate(7),
        certificate(18),
        certificate(19),
        certificate(20),
        certificate(21),
    ],
    "its certificate cannot be verified": [certificate(77), ssl.SSLCertVerificationError(SECRET)],
    "it does not speak TLS (is it http:// and not https:// ?)": [tls("WRONG_VERSION_NUMBER")],
    "it speaks no version of TLS that is still safe": [tls("UNSUPPORTED_PROTOCOL")],
    "no secure connection could be agreed on with it": [tls(SECRET), ssl.SSLError(SECRET)],
    "its answer is longer than 10 bytes": [BodyTooLarge(10), caused(httpx2.NetworkError(SECRET), BodyTooLarge(10))],
    "its answer is compressed by br, though it was asked not to be": [BodyEncoded("br")],
    "the connection failed": [
        Exception(SECRET),
        OSError(SECRET),
        KeyboardInterrupt(),
        ExceptionGroup("", [ValueError()]),
    ],
}


@pytest.mark.parametrize(("words", "error"), [(words, error) for words, errors in ERRORS.items() for error in errors])
def test_an_error_is_said_as(words: str, error: BaseException) -> None:
    assert network_words(error) == words
    assert SECRET not in words


def test_an_earlier_error_of_something_else_says_nothing() -> None:
    error = httpx2.ReadError("later")
    error.__context__ = ConnectionRefusedError(errno.ECONNREFUSED, "")
    assert network_words(error) == "the connection broke off"


def test_causes_that_run_in_a_circle_or_for_ever_end() -> None:
    one, other = Exception(), Exception()
    one.__cause__, other.__cause__ = other, one
    assert network_words(one) == "the connection failed"
    deep: Exception = ConnectionRefusedError(errno.ECONNREFUSED, "")
    for _ in range(10_000):
        deep = caused(Exception(), deep)
    assert network_words(deep) == "the connection failed"


# Real ones, through the client --------------------------------------------------------------------------------------


async def words_of(url: str, ca_file: str | None = None) -> str:
    async with server_client(ca_file) as client:
        with pytest.raises(httpx2.TransportError) as caught:
            await client.get(url)
    return network_words(caught.value)


async def test_nobody_listens() -> None:
    assert await words_of(f"http://127.0.0.1:{free_port()}/") == "connection refused"


async def test_a_host_has_no_address() -> None:
    assert await words_of("http://nothing.invalid/") == "its name cannot be resolved"
    assert await words_of(f"http://{'a' * 70}.invalid/") == "its name cannot be resolved"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "the connection broke off before the answer"),
        (OK + b"Content-Length: 10\r\n\r\nabc", "the connection broke off in the middle of the answer"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "the connection broke off in the middle of the answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "what it answers is not HTTP"),
        (OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n", "what it answers is not HTTP"),
    ],
)
async def test_an_answer_is_broken(answer: bytes, words: str) -> None:
    async with serving(ending(answer)) as server:
        assert await words_of(f"http://127.0.0.1:{server.port}/") == words


async def test_a_certificate_is_not_believed(authority: Authority, ca_file: str, elsewhere: Authority) -> None:
    bad = {
        "its certificate has expired": authority.server("localhost", starts=-2 * DAY, ends=-DAY),
        "its certificate is not valid yet": authority.server("localhost", starts=DAY, ends=2 * DAY),
        "its certificate is not for this host": authority.server("other.example"),
        "its certificate is signed by nobody this machine trusts (ca_file names a private CA)": elsewhere.server(
            "localhost"
        ),
    }
    for words, context in bad.items():
        async with serving(saying(JSON), context) as server:
            assert await words_of(f"https://localhost:{server.port}/", ca_file) == words
            assert server.heard == []


async def test_a_self_signed_certificate_is_not_believed(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON), authority.server("localhost", self_signed=True)) as server:
        words = await words_of(f"https://localhost:{server.port}/", ca_file)
        assert words == "its certificate is signed by nobody this machine trusts (ca_file names a private CA)"
        assert server.heard == []


async def test_https_is_spoken_to_a_port_of_plain_http() -> None:
    async with blurting(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        words = await words_of(f"https://127.0.0.1:{server.port}/")
    assert words == "it does not speak TLS (is it http:// and not https:// ?)"


def test_every_number_of_an_operating_system_error_has_words() -> None:
    for number in errno.errorcode:
        words = network_words(OSError(number, SECRET))
        assert words
        assert SECRET not in words
        assert os.strerror(number) != words or number == errno.ECONNREFUSED
