"""Variables by which programs find a network that is not an open one, and what a server without them runs into.

Pure. A local server gets a few variables of the daemon's and no others; behind a proxy, or where a company's own
authority signs, it fails in words that name neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

__all__ = ["advice", "withheld"]

_NETWORK: Final = (
    "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
    "NPM_CONFIG_REGISTRY", "npm_config_registry", "NPM_CONFIG_PROXY", "npm_config_proxy", "NPM_CONFIG_HTTPS_PROXY",
    "npm_config_https_proxy", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "PIP_INDEX_URL", "GOPROXY",
)  # fmt: skip
_CERTIFICATES: Final = (
    "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "NPM_CONFIG_CAFILE", "npm_config_cafile", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "PIP_CERT", "NODE_USE_SYSTEM_CA",
)  # fmt: skip

_NO_NETWORK: Final = re.compile(
    r"EAI_AGAIN|ENOTFOUND|getaddrinfo|name resolution|name or service not known|could not resolve|nodename nor servname"
    r"|dns error|no such host|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|network is unreachable"
    r"|connect(?:ion)? (?:timed? ?out|refused|timeout)|ERR_SOCKET_TIMEOUT|UND_ERR_CONNECT|fetch failed"
    r"|error sending request for url|failed to fetch|max retries exceeded|proxy authentication|http/?1?\.?1? 407",
    re.IGNORECASE,
)
_NOT_TRUSTED: Final = re.compile(
    r"SELF_SIGNED_CERT|self[- ]signed certificate|UNABLE_TO_(?:GET_ISSUER|VERIFY)|CERT_UNTRUSTED"
    r"|unable to (?:get (?:local )?issuer|verify)|CERTIFICATE_VERIFY_FAILED|certificate verify failed"
    r"|UnknownIssuer|invalid peer certificate|x509: certificate|certificate signed by unknown authority",
    re.IGNORECASE,
)


def withheld(environ: Mapping[str, str], given: Collection[str]) -> tuple[str, ...]:
    """Give the variables of this kind that the daemon has and a server of these variables has not."""
    return tuple(name for name in (*_NETWORK, *_CERTIFICATES) if environ.get(name) and name not in given)


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
        return f"env_pass = [{listed}] in [mcp.servers.{server}], or in [mcp] for all    ({told})"
    if is_untrusting:
        return (
            "it does not trust a certificate: name the file of its authority in env, as NODE_EXTRA_CA_CERTS (node), "
            "SSL_CERT_FILE (uv, Go, httpx) or REQUESTS_CA_BUNDLE (requests)"
        )
    return None
