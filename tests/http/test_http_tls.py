"""A certificate is always verified, and a private authority is trusted only where it is named."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from made_certificates import Authority
from scripted_http import JSON, saying, serving

from moltis.http import tls
from moltis.http.clients import server_client
from moltis.http.tls import CaFileError, tls_context


@pytest.mark.parametrize("private", [False, True])
def test_settings_verify_certificates_and_names(private: bool, ca_file: str) -> None:
    context = tls_context(ca_file if private else None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_private_authority_is_trusted_where_it_is_named(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON), authority.server("localhost", "127.0.0.1")) as server:
        async with server_client(ca_file) as client:
            assert (await client.get(f"https://localhost:{server.port}/")).json() == {"ok": True}
            assert (await client.get(f"https://127.0.0.1:{server.port}/")).json() == {"ok": True}
        async with server_client(None) as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get(f"https://localhost:{server.port}/")
    assert len(server.heard) == 2


async def test_a_servers_own_certificate_may_be_named(authority: Authority) -> None:
    """Without its root: what ca_file names is trusted itself."""
    path = authority.certificate("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    async with serving(saying(JSON), context) as server, server_client(str(path)) as client:
        assert (await client.get(f"https://localhost:{server.port}/")).status_code == 200


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    first, second = Authority(_folder(tmp_path, "1")), Authority(_folder(tmp_path, "2"))
    roots = [authority.ca_file.read_bytes().ljust(4096) for authority in (first, second)]
    path.write_bytes(roots[0])
    context = tls_context(str(path))
    assert tls_context(str(path)) is context
    path.write_bytes(roots[1])
    os.utime(path, ns=(1, 1))
    assert tls_context(str(path)) is not context
    assert tls_context(None) is tls_context(None)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        ("folder", "is no file of certificates"),
        (b"", "holds no certificate"),
        (b"not a certificate", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
        (b"\x00\xff" * 100, "holds no certificate"),
    ],
)
def test_a_file_without_certificates_is_refused(content: bytes | str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(CaFileError, match=why):
        tls_context(str(path))
    with pytest.raises(CaFileError, match=why):
        server_client(str(path))


@pytest.mark.parametrize("content", [None, b"not a certificate"])
def test_certificates_that_the_environment_names_are_needed_too(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None
) -> None:
    if content is not None:
        (tmp_path / "roots.pem").write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    with pytest.raises(CaFileError, match="SSL_CERT_FILE or SSL_CERT_DIR cannot be used"):
        tls_context(None)


async def test_the_environment_may_name_the_roots(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, forgetful: None
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    async with serving(saying(JSON), authority.server("localhost")) as server, server_client(None) as client:
        assert (await client.get(f"https://localhost:{server.port}/")).status_code == 200


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What the environment says is looked at once in a run of the daemon; here it changes."""
    tls._context.cache_clear()
    yield
    tls._context.cache_clear()


def test_a_pipe_is_no_file_of_certificates(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaFileError, match="is no file of certificates"):
        tls_context(str(tmp_path / "pipe"))


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(CaFileError, match="cannot be read"):
        tls_context("/tmp/\0")


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder
