"""Which values of a configuration are secrets: what the scrubber looks for, and what a file open to others exposes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from moltis.config import credentials
from moltis.config.model import ServerSection
from moltis.config.plan import RemoteLaunch, StdioLaunch
from moltis.config.scan import Path
from moltis.redaction import Template

if TYPE_CHECKING:
    from moltis.proxies import Proxies

_PUBLIC_NAME = re.compile(r"HOME|LOGNAME|PATH|SHELL|TERM|USER|LANG|LC_.*|TMPDIR|TZ|NODE_ENV|.*LOG_LEVEL")
"""Variables whose values are everyone's: hiding them would only make logs unreadable."""
_PLAIN_NAME = re.compile(
    r"(?:.*_)?(?:URL|URI|ORIGIN|ENDPOINT|HOST|HOSTNAME|DOMAIN|SITE|PORT|REGION|ZONE|LOCATION|LOCALE|LANGUAGE|FILE|PATH|DIR"
    r"|DIRECTORY|FOLDER|ROOT|MODE|LEVEL|FORMAT|TYPE|ENV|ENVIRONMENT|VERSION|MODEL|TRANSPORT|REGISTRY|INDEX|PROXY"
    r"|BUNDLE|CERTS?|TIMEOUT|ENABLED|DEBUG)",
    re.IGNORECASE,
)
"""Variables that say where and how. Hidden all the same if the value can hold a credential: a password, a webhook."""
_PUBLIC_WORDS = frozenset(
    {"invalid", "disabled", "enabled", "stopped", "starting", "initializing", "awaiting_auth", "backoff", "cooldown"}
    | {"stopping", "streamable-http", "legacy", "warning", "critical", "production", "development", "localhost"}
    | {"127.0.0.1", "http://localhost", "https://"}
)
"""Values that cannot be secret, and whose removal would damage what the program itself says."""

CLIENT_SECRETS = ("client_secret", "private_key")
"""The keys of `oauth` whose values prove who we are."""


def is_public(name: str, value: str) -> bool:
    """Say whether a variable is no secret, such as HOME, or a URL without a password."""
    if _PUBLIC_NAME.fullmatch(name):
        return True
    if not _PLAIN_NAME.fullmatch(name) or "hook" in name.lower():
        return False
    return (credentials.is_path(value) or not credentials.SECRET_NAME.search(name)) and credentials.is_plain(value)


def worth_hiding(values: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """Return the secrets to look for: not blank ones, nor the names of servers, nor words that everyone uses."""
    return frozenset(v for v in values if v.strip()) - frozenset(names) - _PUBLIC_WORDS


def program_secrets(launch: StdioLaunch) -> Iterator[str]:
    """Yield every value in what a local server is started from that must never be shown."""
    yield from (secret for _, secret in credentials.in_words((launch.command, *launch.args)))
    for name, value in launch.env:
        if not is_public(name, value):
            yield value
            yield from credentials.in_text(value)


def remote_secrets(launch: RemoteLaunch) -> Iterator[str]:
    """Yield every value in what a remote server is reached by that must never be shown."""
    yield from _url_secrets(launch.url)
    yield from proxy_secrets(launch.proxies)
    for _, value in launch.headers:
        yield from _header_secrets(value)
    for name, setting in launch.oauth:
        if name in CLIENT_SECRETS:
            yield str(setting)
        elif name.endswith("_url"):
            yield from _url_secrets(str(setting))


def proxy_secrets(proxies: Proxies | None) -> Iterator[str]:
    """Yield what lets one through proxies, raw and as the header has it; a user alone may be a token."""
    for proxy in proxies or ():
        if secret := proxy.password or proxy.user:
            yield secret
        if proxy.authorization is not None:
            yield proxy.authorization.partition(" ")[2]


def _url_secrets(url: str) -> Iterator[str]:
    parts = credentials.parts_of(url)
    if parts is None:
        return
    userinfo = parts.netloc.rpartition("@")[0]
    for text in (*userinfo.split(":", 1), parts.fragment):
        yield from (text, unquote(text))
    for pair in parts.query.split("&"):
        yield pair.partition("=")[2] if "=" in pair else pair
    yield from (value for _, value in parse_qsl(parts.query, keep_blank_values=True))


def _header_secrets(value: str) -> Iterator[str]:
    """Yield a header's value, and the credential inside of it: after the scheme (RFC 9110), in a cookie, in Basic."""
    yield value
    scheme, _, credential = value.partition(" ")
    if credential:
        yield credential.strip()
    if scheme.lower() == "basic":
        try:
            yield from base64.b64decode(credential, validate=True).decode().split(":", 1)
        except (binascii.Error, UnicodeDecodeError):
            return
    for cookie in value.split(";") if ";" in value else ():
        yield cookie.partition("=")[2].strip()


def literal_secret(section: ServerSection) -> Path | None:
    """Return the first key of a server's entry that holds a secret written out, or None when none does."""
    for table, values in (("env", section.env), ("headers", section.headers)):
        for name, value in values.items():
            if credentials.named_secret(name) and _is_literal(value):
                return (table, name)
    for n in literal_secrets(section.command, section.args):
        return ("args", n) if n >= 0 else ("command",)
    for name in CLIENT_SECRETS:
        if section.oauth and _is_literal(getattr(section.oauth, name)):
            return ("oauth", name)
    if is_literal_proxy(section.proxy):
        return ("proxy",)
    if section.url and any(_is_literal_text(value) for value in _url_secrets(section.url.text)):
        return ("url",)
    return None


def is_literal_proxy(proxy: Template | None) -> bool:
    """Say whether a proxy has its password written out."""
    return proxy is not None and any(_is_literal_text(secret) for secret in credentials.in_url(proxy.text))


def literal_secrets(command: str | None, args: Sequence[Template]) -> list[int]:
    """Return the indices of the arguments that hold a secret written out, -1 for the command, in order."""
    found = credentials.in_words((command or "", *(argument.text for argument in args)))
    return sorted({n - 1 for n, secret in found if _is_literal_text(secret)})


def _is_literal(value: Template | None) -> bool:
    return value is not None and bool(value.text.strip()) and not value.names


def _is_literal_text(text: str) -> bool:
    return bool(text) and "$" not in text
