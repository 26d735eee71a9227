"""Remote servers: a URL, headers, a login and a proxy, as written and as used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from moltis.config import near_misses
from moltis.config.expansion import Base, DefaultProxy, Expansion, Planner, Room, size_in_words
from moltis.config.local import folder
from moltis.config.model import OAuthSection, ServerSection
from moltis.config.plan import Launch, RemoteLaunch, Shown
from moltis.config.problem import Report
from moltis.config.scan import Path
from moltis.config.sensitive import proxy_secrets, remote_secrets
from moltis.config.surroundings import certificate_files, names_a_proxy
from moltis.http.origins import read_url, why_no_url
from moltis.redaction import Template, shown_url

if TYPE_CHECKING:
    from moltis.proxies import Proxies

MAX_URL_BYTES: Final = 8192
"""RFC 9110 section 4.1 asks for 8000 at least, and few servers take more. It holds for the texts of `oauth` too."""
MAX_HEADER_BYTES: Final = 64 * 1024
"""Of one header's value; most servers take 8 to 16 KiB of all."""
MAX_HEADERS_BYTES: Final = 256 * 1024
"""Of what is expanded of a remote server's entry, all together."""
_MAX_HOST_CHARS: Final = 1024
_TOO_MANY_HEADERS: Final = f"is where url and headers get longer than {size_in_words(MAX_HEADERS_BYTES)} together"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""A token of RFC 9110 section 5.6.2."""
_RESERVED_HEADERS = re.compile(r"accept|content-type|mcp-.*|content-length|transfer-encoding|connection", re.IGNORECASE)
"""What the MCP transport sets itself, and what would break the framing of HTTP."""
_NOT_IN_HEADER = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def default_proxy(proxy: Template | None, base: Base, report: Report, *, is_wrong: bool) -> DefaultProxy:
    """Return what `proxy` of `[mcp]` means to the servers that have none of their own; what is wrong is reported once.

    is_wrong: it is written, and something that was reported already. Nobody goes without a proxy because of that.
    """
    wrong = "proxy of [mcp] is wrong: moltis config check says how"
    if proxy is None:
        return DefaultProxy(problem=wrong, is_written=True) if is_wrong else DefaultProxy()
    expansion = Expansion(base, Room(), MAX_HEADERS_BYTES, _TOO_MANY_HEADERS)
    proxies = _proxies(proxy, expansion, own=False)
    for key, message in expansion.wrong:
        report.error(("mcp", *key), message)
    problem = f"proxy of [mcp]: {expansion.wrong[0][1]}" if expansion.wrong else None
    if problem is None:
        _warn_of_no_proxy(proxy, RemoteLaunch("", proxies=proxies), ("mcp", "proxy"), report)
    secrets = frozenset({*expansion.used, *proxy_secrets(proxies)})
    return DefaultProxy(proxies, _shown_proxy(proxy) or "none", problem, is_written=True, secrets=secrets)


def _proxies(proxy: Template, expansion: Expansion, *, own: bool) -> Proxies | None:
    text = expansion.text(proxy, "proxy", most=MAX_URL_BYTES)
    if text in ("", "none"):
        return None
    from moltis import proxies

    try:
        return proxies.setting(text, expansion.base.environ, own=own)
    except ValueError as error:
        expansion.wrong.append((("proxy",), str(error)))
        return None


def _warn_of_no_proxy(proxy: Template | None, launch: RemoteLaunch, path: Path, report: Report) -> None:
    if proxy is not None and proxy.text == "env" and launch.proxies is None:
        report.warning(path, "the environment has no HTTPS_PROXY: nothing is reached through a proxy")


def _header_name_problem(name: str, seen: Mapping[str, str]) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return "is not a header's name: letters, digits and '-' are safe"
    if _RESERVED_HEADERS.fullmatch(name):
        return "is reserved: the transport sets this header itself"
    if name.lower() in seen:
        return f"is the same header as {seen[name.lower()]}: names of headers have no case"
    return None


def _header_value_problem(value: str) -> str | None:
    if _NOT_IN_HEADER.search(value):
        return "has a line break, a NUL, or another character that a header cannot carry"
    return None


def _login_url_problem(url: str) -> str | None:
    """RFC 8252 and RFC 9700: authorization endpoints are https, and http on this machine only."""
    parts = read_url(url)
    if parts is None or parts.secure:
        return why_no_url(url)
    return "must begin with https://; http:// is for this machine only"


def _issuer_problem(url: str) -> str | None:
    """RFC 8414 section 2: an https URL without a query or a fragment; http on this machine only."""
    return "must have no query and no fragment" if set(url) & set("?#") else _login_url_problem(url)


def _resource_problem(uri: str) -> str | None:
    """RFC 8707 section 2: an absolute URI without a fragment; nothing, where the parameter is to be left out."""
    if not uri:
        return None
    absolute = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+", uri)
    return None if absolute and "#" not in uri else "must be an absolute URI without a fragment"


_OAUTH_CHECKS = {
    "auth_url": _login_url_problem,
    "token_url": _login_url_problem,
    "client_metadata_url": _login_url_problem,
    "issuer": _issuer_problem,
    "resource": _resource_problem,
}


def _oauth(oauth: OAuthSection, expansion: Expansion) -> Iterator[tuple[str, object]]:
    for key in OAuthSection.model_fields:
        value = getattr(oauth, key)
        if key not in oauth.model_fields_set or value is None:
            continue
        if key == "scopes":
            yield (
                key,
                tuple(expansion.text(scope, "oauth", key, n, most=MAX_URL_BYTES) for n, scope in enumerate(value)),
            )
        elif isinstance(value, Template):
            check = _OAUTH_CHECKS.get(key)
            yield (
                key,
                expansion.text(
                    value, "oauth", key, most=MAX_HEADER_BYTES if check is None else MAX_URL_BYTES, check=check
                ),
            )
        else:
            yield key, value


def _withheld_remote(entry: ServerSection, remote: RemoteLaunch, base: Base) -> tuple[str, ...]:
    """Return the variables that would say how a remote server is reached, where nobody has decided about that."""
    names: list[str] = []
    if entry.proxy is None and not base.proxy.is_written and names_a_proxy(base.environ):
        from moltis.proxies import unused_variable

        names += filter(None, [unused_variable(base.environ, remote.url)])
    return (*names, *(certificate_files(base.environ) if entry.ca_file is None else ()))


def _shown_proxy(proxy: Template | None) -> str | None:
    if proxy is None:
        return None
    return proxy.text if proxy.text in ("none", "env") else shown_url(proxy.text)


class _Remote(Planner):
    most = MAX_HEADERS_BYTES
    too_much = _TOO_MANY_HEADERS

    def launch(self, entry: ServerSection, expansion: Expansion) -> RemoteLaunch:
        headers: list[tuple[str, str]] = []
        seen: dict[str, str] = {}
        for name, value in entry.headers.items():
            if problem := _header_name_problem(name, seen):
                expansion.wrong.append((("headers", name), problem))
            seen[name.lower()] = name
            text = expansion.text(value, "headers", name, most=MAX_HEADER_BYTES, check=_header_value_problem)
            headers.append((name, text.strip(" \t")))
        return RemoteLaunch(
            url=expansion.text(entry.url, "url", most=MAX_URL_BYTES, check=why_no_url),
            headers=tuple(headers),
            oauth=tuple(_oauth(entry.oauth, expansion)) if entry.oauth else (),
            ca_file=folder(entry.ca_file, expansion.base) if entry.ca_file else None,
            proxies=expansion.base.proxy.proxies if entry.proxy is None else _proxies(entry.proxy, expansion, own=True),
        )

    def shown(self, entry: ServerSection, launch: Launch, base: Base) -> Shown:
        assert isinstance(launch, RemoteLaunch)
        return Shown(
            url=shown_url(entry.url.text) if entry.url else None,
            header_names=tuple(entry.headers),
            env_withheld=_withheld_remote(entry, launch, base),
        )

    def written(self, entry: ServerSection) -> list[str | None]:
        return [None if entry.url is None else entry.url.text]

    def secrets(self, launch: Launch, used: set[str]) -> Iterator[str]:
        assert isinstance(launch, RemoteLaunch)
        yield from used
        yield from (value.lower() for value in used if len(value) <= _MAX_HOST_CHARS)  # so a host's name is shown
        yield from remote_secrets(launch)

    def look_over(self, entry: ServerSection, launch: Launch, path: Path, report: Report) -> None:
        assert isinstance(launch, RemoteLaunch)
        _warn_of_no_proxy(entry.proxy, launch, (*path, "proxy"), report)

    def near_misses(self, entry: ServerSection, launch: Launch) -> Iterator[near_misses.Miss]:
        assert isinstance(launch, RemoteLaunch)
        if entry.proxy is not None:
            yield from near_misses.in_text(("proxy",), entry.proxy)
        if entry.url is not None and "%" not in entry.url.text:  # with it a URL has %41%42, which is no %VARIABLE%
            yield from near_misses.in_text(("url",), entry.url)
        for name, value in entry.headers.items():
            yield from near_misses.in_text(("headers", name), value, is_trimmed=True)
        yield from near_misses.in_headers(launch.headers)

    def inherited_problem(self, entry: ServerSection, base: Base) -> str | None:
        return base.proxy.problem if entry.proxy is None else None

    def proxy(self, entry: ServerSection, base: Base) -> str | None:
        return _shown_proxy(entry.proxy) or base.proxy.shown


PLANNER: Final = _Remote()
