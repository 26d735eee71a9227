"""Variables by which programs find a network that is not an open one, and what a server without them runs into.

Pure. A local server gets a few variables of the daemon's and no others; behind a proxy, or where a company's own
authority signs, it fails in words that name neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from moltis.names import entry_of
from moltis.patterns import later

_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_NETWORK: Final = (
    *_PROXIES, "NO_PROXY", "no_proxy",
    "NPM_CONFIG_REGISTRY", "npm_config_registry", "NPM_CONFIG_PROXY", "npm_config_proxy", "NPM_CONFIG_HTTPS_PROXY",
    "npm_config_https_proxy", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "PIP_INDEX_URL", "GOPROXY",
)  # fmt: skip
_CERTIFICATES: Final = (
    "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "NPM_CONFIG_CAFILE", "npm_config_cafile", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "PIP_CERT", "NODE_USE_SYSTEM_CA",
)  # fmt: skip
_ALL: Final = frozenset((*_NETWORK, *_CERTIFICATES))

_FILES_OF_OTHERS: Final = (
    "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NPM_CONFIG_CAFILE",
    "npm_config_cafile", "PIP_CERT",
)  # fmt: skip

_NO_NETWORK: Final = later(
    r"EAI_AGAIN|ENOTFOUND|getaddrinfo|name resolution|name or service not known|could not resolve|nodename nor servname"
    r"|dns error|no such host|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|network is unreachable"
    r"|connect(?:ion)? (?:timed? ?out|refused|timeout)|ERR_SOCKET_TIMEOUT|UND_ERR_CONNECT|fetch failed"
    r"|error sending request for url|failed to fetch|max retries exceeded|proxy authentication|http/?1?\.?1? 407",
    re.IGNORECASE,
)
_NOT_TRUSTED: Final = later(
    r"SELF_SIGNED_CERT|self[- ]signed certificate|UNABLE_TO_(?:GET_ISSUER|VERIFY)|CERT_UNTRUSTED"
    r"|unable to (?:get (?:local )?issuer|verify)|CERTIFICATE_VERIFY_FAILED|certificate verify failed"
    r"|UnknownIssuer|invalid peer certificate|x509: certificate|certificate signed by unknown authority",
    re.IGNORECASE,
)


def withheld(environ: Mapping[str, str], given: Collection[str]) -> tuple[str, ...]:
    """Return the variables of this kind that the daemon has and a server of these variables has not."""
    if _ALL.isdisjoint(environ):
        return ()
    return tuple(name for name in (*_NETWORK, *_CERTIFICATES) if environ.get(name) and name not in given)


def certificate_files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables of the daemon's that name a file of certificates to other programs, and not to moltis."""
    return tuple(name for name in _FILES_OF_OTHERS if environ.get(name))


def names_a_proxy(environ: Mapping[str, str]) -> bool:
    """Say whether the daemon has a variable that names a proxy."""
    return any(environ.get(name) for name in _PROXIES)


def advice(server: str, lines: Iterable[str], names: Collection[str]) -> str | None:
    """Say what to pass on to a local server, None where nothing is to be.

    lines: what it said before it failed, and how. names: what was withheld from it.
    """
    text = "\n".join(lines)
    is_untrusting = _NOT_TRUSTED.search(text) is not None
    if not is_untrusting and not _NO_NETWORK.search(text):
        return None
    kind = [*_CERTIFICATES, *_NETWORK] if is_untrusting else _NETWORK
    telling = [name for name in kind if name in names]
    if telling and (not is_untrusting or telling[0] in _CERTIFICATES):
        listed = ", ".join(f'"{name}"' for name in telling)
        told = "moltis has it, and it does not get it" if len(telling) == 1 else "moltis has them, and it gets none"
        return f"env_pass = [{listed}] in {entry_of(server)}, or in [mcp] for all    ({told})"
    if is_untrusting:
        return (
            "it does not trust a certificate: name the file of its authority in env, as NODE_EXTRA_CA_CERTS (node), "
            "SSL_CERT_FILE (uv, Go, httpx) or REQUESTS_CA_BUNDLE (requests)"
        )
    return None


# Remote servers ------------------------------------------------------------------------------------------------------

_NOT_REACHED: Final = ("cannot be reached at ", "no usable answer from ", "no answer from ")
_OWN_CA: Final = "ca_file names a private CA"
_BY_PROXY: Final = (
    r"the proxy (?P<at>[\w.:\[\]-]{1,100}) (?P<what>gives no connection|does not get there|does not let this through"
    r"|wants a login by|wants a user and a password|refuses the user)"
)


def remote_advice(server: str, message: str, names: Collection[str]) -> str | None:
    """Say which variable would show the way to a remote server, or to where one logs in to it; None for none.

    message: of its failure. names: what was withheld from it.
    """
    entry = entry_of(server)
    if _OWN_CA in message:
        file = next((name for name in _FILES_OF_OTHERS if name in names), None)
        told = f"FILE: what {file} names, which moltis has for other programs"
        return file and f'ca_file = "FILE" in {entry}    ({told})'
    variable = next((name for name in _PROXIES if name in names), None)
    if variable is None or not any(words in message for words in _NOT_REACHED):
        return None
    return f'proxy = "env" in {entry}, or in [mcp] for all    ({variable} is set for moltis, and not used unasked)'


def proxy_advice(server: str, message: str, proxy: str | None) -> list[str]:
    """Say what mends the proxy that a remote server is reached through; [] where the message is not about one.

    proxy: as `ServerStatus.proxy`.
    """
    said = re.search(_BY_PROXY, message) if "the proxy " in message else None
    if said is None:
        return []
    return _for_proxy(said["at"], said["what"], message, entry_of(server), is_of_environment=proxy == "env")


def _for_proxy(at: str, what: str, message: str, entry: str, *, is_of_environment: bool) -> list[str]:
    key = f"proxy in {entry}, or in [mcp]"
    place = "HTTPS_PROXY in the environment that the daemon is started with" if is_of_environment else key
    match what:
        case "gives no connection" if _OWN_CA in message:
            return [f'ca_file = "/etc/ssl/YOUR_CA.pem" in {entry}    (the certificate of the CA of the proxy, in PEM)']
        case "gives no connection":
            return [f"look whether {at} is right, and runs    ({place})"]
        case "wants a user and a password" if is_of_environment:
            return [f"HTTPS_PROXY=http://USER:PASSWORD@{at} in the environment that the daemon is started with"]
        case "wants a user and a password":
            return [
                "moltis env set PROXY_PASSWORD",
                f'proxy = "http://USER:$PROXY_PASSWORD@{at}" in {entry}, or in [mcp] for all',
            ]
        case "refuses the user":
            return [f"correct user and password of {place}"]
        case "wants a login by":
            return [
                f'proxy = "http://127.0.0.1:3128" in {entry}, or in [mcp] for all    (a proxy of your own, such as px '
                "or cntlm, that logs in to that one)"
            ]
        case _:
            return [
                f'proxy = "none" in {entry}    (if it can be reached without; else who runs {at} must let it through)'
            ]
