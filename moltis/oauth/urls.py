"""Which URL of another party may be used at all, be it fetched, posted to or opened.

The reading is `moltis.http.origins.read_url`; this adds what is needed before a person's browser gets to read the URL
by rules of its own (WHATWG URL).
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from moltis.http.addresses import Scope, host_is_loopback, scope
from moltis.http.origins import read_url

MAX_URL_CHARS = 8 * 1024
"""Of one that is opened: browsers and their launchers take this much, and no request of ours needs it."""

MAX_GIVEN_CHARS = 2 * 1024
"""Of one that a document or a header gives."""

_NOT_IN_URI = re.compile(r'["<>^`{|}]')
"""Printable, yet in no URI (RFC 3986 section 2); launchers written in shell have stumbled over them."""

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def url_problem(url: str) -> str | None:
    """Say what is wrong with a URL, to follow "its address ..."; None if it may be used.

    It must be https, or http to this machine by its very name, with a host that every program reads alike, and have
    neither userinfo nor a fragment. The words hold nothing of the URL.
    """
    if len(url) > MAX_URL_CHARS:
        return f"is longer than {MAX_URL_CHARS} characters"
    if _NOT_IN_URI.search(url) is not None:
        return "has characters that no URL has"
    parts = read_url(url)
    if parts is None:
        return "is not a plain http or https URL"
    if parts.userinfo:
        return "has a user name in it"
    if "#" in url:
        return "has a fragment"
    if (problem := _host_problem(parts.host)) is not None:
        return problem
    if not parts.secure:
        return "is not https"
    return None


def given_url_problem(url: str, giver: str) -> str | None:
    """Say what is wrong with a URL that the document or the header of `giver`, a URL, gives; None if it may be used.

    Beyond `url_problem`: only who is on this machine may point to this machine, so that no server far away makes a
    browser or the daemon visit what listens here.
    """
    if len(url) > MAX_GIVEN_CHARS:
        return f"is longer than {MAX_GIVEN_CHARS} characters"
    problem = url_problem(url)
    if problem is None and is_local(url) and not is_local(giver):
        return "points into this machine"
    return problem


def is_local(url: str) -> bool:
    """Say whether a URL's host is this machine, by name or by any way to write its addresses."""
    parts = read_url(url)
    return parts is not None and (host_is_loopback(parts.host) or scope(parts.host) is Scope.LOOPBACK)


def _host_problem(host: str) -> str | None:
    """Say what is wrong with a host that is an address, or that some program would take for one (WHATWG URL, 3.5)."""
    try:
        ip_address(host)
    except ValueError:
        last = host.removesuffix(".").rpartition(".")[2]
        ambiguous = _NUMBER.fullmatch(last) is not None
        return "has a number for a host, which programs read differently" if ambiguous else None
    return "is one that nobody is reached at" if scope(host) is Scope.FORBIDDEN else None
