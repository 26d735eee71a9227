"""Whom to ask for a token: what is fetched, in which order, and what is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from login_world import Handler, Sent, Web, answer
from trio.testing import MockClock

from moltis.http.addresses import Scope
from moltis.http.fetch import FetchProblem
from moltis.oauth.discovery import DISCOVERY_SECS, DOCUMENT_SECS, MAX_FETCHES, Discovered, Discovery
from moltis.oauth.model import Challenge, ClientConfig, OAuthProblem

URL = "https://mcp.example.com/team/mcp"
PRM = "https://mcp.example.com/.well-known/oauth-protected-resource"
ISSUER = "https://auth.example.com/tenant"
OAUTH = "https://auth.example.com/.well-known/oauth-authorization-server/tenant"
OPENID = "https://auth.example.com/.well-known/openid-configuration/tenant"
APPENDED = "https://auth.example.com/tenant/.well-known/openid-configuration"
LEGACY = "https://mcp.example.com/.well-known/oauth-authorization-server"
KINDS = ("oauth-authorization-server", "openid-configuration")
HTML = b"<!doctype html><title>Welcome</title>"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def metadata(issuer: str = ISSUER, **more: Any) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "code_challenge_methods_supported": ["S256"],
        **more,
    }


def resource(*issuers: str, of: str = URL) -> dict[str, Any]:
    return {"resource": of, "authorization_servers": list(issuers or (ISSUER,))}


async def discover(
    documents: dict[str, Any], challenge: Challenge | None = None, *, config: ClientConfig | None = None, **more: Any
) -> tuple[Discovered, list[str]]:
    """Play one discovery; a document is JSON, bytes, a status, an answer, or a failure."""
    web = Web()

    def handler(document: Any) -> Callable[[Sent], Any]:
        def handle(sent: Sent) -> Any:
            if isinstance(document, Exception):
                raise document
            if isinstance(document, int):
                return answer(document, b"")
            return document if hasattr(document, "status") else answer(200, document)

        return handle

    web.handlers = {("GET", url): handler(document) for url, document in documents.items()}
    discovery = Discovery(web, URL, config or ClientConfig(), lambda: 0.0)  # type: ignore[arg-type]
    urls = [sent.url for sent in web.sent]
    try:
        return await discovery.discover(challenge, **more), [sent.url for sent in web.sent]
    except OAuthProblem as problem:
        urls = [sent.url for sent in web.sent]
        problem.add_note(repr(urls))
        problem.urls = urls  # type: ignore[attr-defined]
        raise


async def refused(documents: dict[str, Any], *arguments: Any, **more: Any) -> tuple[OAuthProblem, list[str]]:
    with pytest.raises(OAuthProblem) as caught:
        await discover(documents, *arguments, **more)
    return caught.value, caught.value.urls  # type: ignore[attr-defined]


async def test_the_shortest_way_takes_two_fetches() -> None:
    found, urls = await discover({f"{PRM}/team/mcp": resource(), OAUTH: metadata()})
    assert urls == [f"{PRM}/team/mcp", OAUTH]
    assert (found.server.issuer, found.resource_id, found.assumed) == (ISSUER, URL, False)


async def test_what_the_challenge_names_comes_first() -> None:
    named = "https://mcp.example.com/elsewhere"
    found, urls = await discover(
        {named: resource(of="https://mcp.example.com/team"), OAUTH: metadata()}, Challenge(resource_metadata=named)
    )
    assert urls == [named, OAUTH]
    assert found.resource_id == "https://mcp.example.com/team"


async def test_every_address_is_tried_in_order() -> None:
    found, urls = await discover({PRM: resource(), APPENDED: metadata()})
    assert urls == [f"{PRM}/team/mcp", PRM, OAUTH, OPENID, APPENDED]
    assert found.server.token_endpoint == f"{ISSUER}/token"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410])
async def test_a_4xx_says_that_there_is_nothing(status: int) -> None:
    _, urls = await discover({f"{PRM}/team/mcp": status, PRM: resource(), OAUTH: status, OPENID: metadata()})
    assert urls[-1] == OPENID


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("where", ["resource", "issuer"])
async def test_where_nothing_is_found_a_failure_says_nothing_at_all(status: int, where: str) -> None:
    """Least of all that the server is of MCP 2025-03-26, or publishes no metadata."""
    failing = answer(status, b"", retry_after="17")
    documents = {f"{PRM}/team/mcp": failing} if where == "resource" else {PRM: resource(), OPENID: failing}
    problem, urls = await refused({LEGACY: metadata("https://mcp.example.com"), **documents})
    assert (problem.kind, problem.retry_after_secs) == ("outage", 17)
    assert urls[-1] == (PRM if where == "resource" else APPENDED)


FAILURES: list[Any] = [
    502,
    answer(429, b"", retry_after="60"),
    FetchProblem("connection refused"),
    FetchProblem("no way", kind="refused"),
    FetchProblem("redirects to x, which is not https", kind="refused", status=302),
    HTML,
    404,
    403,
]


@pytest.mark.parametrize("first", FAILURES)
@pytest.mark.parametrize("second", FAILURES)
async def test_a_document_counts_wherever_it_lies_behind_addresses_that_fail(first: Any, second: Any) -> None:
    found, urls = await discover(
        {f"{PRM}/team/mcp": first, PRM: resource(), OAUTH: first, OPENID: second, APPENDED: metadata()}
    )
    assert urls == [f"{PRM}/team/mcp", PRM, OAUTH, OPENID, APPENDED]
    assert (found.server.issuer, found.resource_id) == (ISSUER, URL)


async def test_a_document_that_may_not_be_believed_ends_the_search_behind_a_failure_too() -> None:
    problem, urls = await refused({f"{PRM}/team/mcp": 502, PRM: resource(of="https://other.example.com/")})
    assert problem.kind == "refused"
    assert urls[-1] == PRM


@pytest.mark.parametrize("kind", ["outage", "refused"])
async def test_an_address_that_cannot_or_must_not_be_reached_is_told_of_where_none_other_has_a_document(
    kind: Any,
) -> None:
    problem, _ = await refused({f"{PRM}/team/mcp": resource(), OAUTH: FetchProblem("no way", kind=kind)})
    assert (problem.kind, problem.message) == (kind, "no way")


async def test_an_address_that_hangs_takes_its_five_seconds_and_no_more() -> None:
    web = Web()

    async def hangs(sent: Sent) -> Any:
        await anyio.sleep_forever()

    web.handlers = {
        ("GET", f"{PRM}/team/mcp"): hangs,
        ("GET", PRM): lambda sent: answer(200, resource()),
        ("GET", OAUTH): hangs,
        ("GET", OPENID): hangs,
        ("GET", APPENDED): lambda sent: answer(200, metadata()),
    }
    discovery = Discovery(web, URL, ClientConfig(), lambda: 0.0)  # type: ignore[arg-type]
    began = anyio.current_time()
    assert (await discovery.discover(None)).server.issuer == ISSUER
    assert anyio.current_time() - began == pytest.approx(15, abs=1)


async def test_whether_the_server_names_something_is_not_sure_behind_an_address_that_failed() -> None:
    def answering(status: int, document: object = None) -> Handler:
        return lambda sent: answer(status, document)

    async def found(documents: dict[str, Any]) -> tuple[Any, bool]:
        web = Web()
        web.handlers = {("GET", url): answering(*what) for url, what in documents.items()}
        return await Discovery(web, URL, ClientConfig(), lambda: 0.0).find_resource(None)  # type: ignore[arg-type]

    assert (await found({f"{PRM}/team/mcp": (200, resource())}))[1]
    assert (await found({f"{PRM}/team/mcp": (404, b""), PRM: (200, resource())}))[1]
    assert not (await found({f"{PRM}/team/mcp": (502, b""), PRM: (200, resource())}))[1]
    assert await found({}) == (None, True)


@pytest.mark.parametrize("status", [401, 403])
async def test_where_a_document_is_promised_a_refusal_is_told_and_nothing_is_guessed(status: int) -> None:
    named = "https://mcp.example.com/elsewhere"
    challenge = Challenge(resource_metadata=named)
    problem, urls = await refused({named: status, PRM: status}, challenge)
    assert f"{named} answers HTTP {status} to moltis" in problem.message
    assert "User-Agent moltis/" in problem.message
    assert LEGACY not in urls
    problem, urls = await refused({f"{PRM}/team/mcp": resource(), OAUTH: status})
    assert f"{OAUTH} answers HTTP {status}" in problem.message
    assert urls[-1] == APPENDED
    found, _ = await discover({named: status, PRM: resource(), OAUTH: status, OPENID: metadata()}, challenge)
    assert found.server.issuer == ISSUER


async def test_of_a_server_that_names_its_metadata_no_endpoints_are_assumed() -> None:
    named = "https://mcp.example.com/elsewhere"
    problem, _ = await refused({}, Challenge(resource_metadata=named))
    assert (problem.kind, named in problem.message) == ("refused", True)
    own = "https://mcp.example.com"
    found, _ = await discover({LEGACY: metadata(own)}, Challenge(resource_metadata=named))
    assert found.server.issuer == own, "what it publishes is no guess"


async def test_a_site_with_one_page_for_every_path_has_no_metadata() -> None:
    found, _ = await discover({f"{PRM}/team/mcp": HTML, PRM: HTML, LEGACY: HTML})
    assert found.assumed
    _, urls = await discover({f"{PRM}/team/mcp": resource(), OAUTH: HTML, OPENID: metadata()})
    assert urls[-1] == OPENID


async def test_where_metadata_was_promised_something_else_is_an_outage() -> None:
    named = "https://mcp.example.com/elsewhere"
    problem, _ = await refused({named: HTML}, Challenge(resource_metadata=named))
    assert problem.kind == "outage"
    problem, urls = await refused({f"{PRM}/team/mcp": resource(), OAUTH: HTML, OPENID: HTML})
    assert problem.kind == "outage"
    assert urls[-1] == APPENDED


async def test_metadata_of_another_issuer_is_not_made_up_for_by_another_address() -> None:
    problem, urls = await refused(
        {f"{PRM}/team/mcp": resource(), OAUTH: metadata("https://evil.example.net"), OPENID: metadata()}
    )
    assert problem.kind == "refused"
    assert urls[-1] == OAUTH


async def test_metadata_about_another_resource_is_refused_before_anybody_else_is_asked() -> None:
    problem, urls = await refused({f"{PRM}/team/mcp": resource(of="https://other.example.com/"), PRM: resource()})
    assert problem.kind == "refused"
    assert len(urls) == 1


async def test_an_authorization_server_without_metadata_is_refused() -> None:
    problem, urls = await refused({f"{PRM}/team/mcp": resource()})
    assert problem.kind == "refused"
    assert f"{ISSUER} publishes no metadata" in problem.message
    assert urls[1:] == [OAUTH, OPENID, APPENDED]


async def test_of_several_authorization_servers_the_first_that_can_be_believed_is_taken() -> None:
    other = "https://other.example.com"
    found, _ = await discover(
        {
            f"{PRM}/team/mcp": resource(ISSUER, other),
            OAUTH: metadata(code_challenge_methods_supported=["plain"]),
            f"{other}/.well-known/oauth-authorization-server": metadata(other),
        }
    )
    assert found.server.issuer == other


async def test_the_issuer_of_what_is_held_stays_while_it_is_named() -> None:
    other = "https://other.example.com"
    documents = {
        f"{PRM}/team/mcp": resource(ISSUER, other),
        OAUTH: metadata(),
        f"{other}/.well-known/oauth-authorization-server": metadata(other),
    }
    found, _ = await discover(documents, prefer=other)
    assert found.server.issuer == other
    found, _ = await discover(documents, prefer="https://gone.example.com")
    assert found.server.issuer == ISSUER


@pytest.mark.parametrize("first", [503, FetchProblem("connection refused")])
async def test_an_outage_of_the_first_sends_to_the_second_only_who_holds_nothing_of_the_first(first: Any) -> None:
    other = "https://other.example.com"
    documents = {
        f"{PRM}/team/mcp": resource(ISSUER, other),
        OAUTH: first,
        f"{other}/.well-known/oauth-authorization-server": metadata(other),
    }
    for prefer in (None, other, "https://gone.example.com"):
        assert (await discover(documents, prefer=prefer))[0].server.issuer == other
    problem, _ = await refused(documents, prefer=ISSUER)
    assert problem.kind == "outage"


async def test_of_several_that_all_fail_the_one_that_may_come_back_is_waited_for() -> None:
    other = "https://other.example.com"
    for documents in ({OAUTH: 503}, {f"{other}/.well-known/oauth-authorization-server": 503}):
        problem, _ = await refused({f"{PRM}/team/mcp": resource(ISSUER, other), **documents})
        assert problem.kind == "outage"


async def test_a_crowd_of_authorization_servers_is_not_visited() -> None:
    many = [f"https://a{n}.example.com/x" for n in range(8)]
    problem, urls = await refused({f"{PRM}/team/mcp": resource(*many)})
    assert problem.kind == "refused"
    assert len(urls) <= MAX_FETCHES


async def test_mcp_2025_03_26_has_the_metadata_at_the_servers_own_origin() -> None:
    own = "https://mcp.example.com"
    found, urls = await discover({LEGACY: metadata(own)})
    assert urls == [f"{PRM}/team/mcp", PRM, LEGACY]
    assert (found.server.issuer, found.resource, found.resource_id) == (own, None, URL)
    assert not found.assumed


async def test_mcp_2025_03_26_has_default_endpoints_where_there_is_no_metadata() -> None:
    found, urls = await discover({})
    assert urls[-1] == LEGACY
    assert found.assumed
    assert found.server.authorization_endpoint == "https://mcp.example.com/authorize"


async def test_legacy_metadata_that_cannot_be_believed_is_not_passed_over() -> None:
    problem, _ = await refused({LEGACY: metadata("https://evil.example.net")})
    assert problem.kind == "refused"
    problem, _ = await refused({LEGACY: 500})
    assert problem.kind == "outage"


async def test_configured_endpoints_are_taken_as_they_are() -> None:
    config = ClientConfig(client_id="x", auth_url="http://a.internal/auth", token_url="http://a.internal/token")
    found, urls = await discover({}, config=config)
    assert urls == []
    assert (found.server.manual, found.server.token_endpoint) == (True, "http://a.internal/token")


async def test_a_client_on_its_own_behalf_needs_no_pkce() -> None:
    documents = {f"{PRM}/team/mcp": resource(), OAUTH: metadata(code_challenge_methods_supported=[])}
    await refused(documents)
    await discover(documents, config=ClientConfig(client_id="x", client_secret="y", grant="client_credentials"))


async def test_who_answers_too_slowly_has_not_answered() -> None:
    web = Web()

    async def slow(sent: Sent) -> Any:
        await anyio.sleep(9)
        return answer(404, b"")

    web.handlers = {("GET", url): slow for url in (f"{PRM}/team/mcp", PRM, LEGACY)}
    discovery = Discovery(web, URL, ClientConfig(), lambda: 0.0)  # type: ignore[arg-type]
    began = anyio.current_time()
    with pytest.raises(OAuthProblem, match="within 5 s") as caught:
        await discovery.discover(None)
    assert caught.value.kind == "outage"
    assert anyio.current_time() - began == pytest.approx(2 * DOCUMENT_SECS)


async def test_a_search_that_goes_on_and_on_ends() -> None:
    web = Web()

    async def hangs(sent: Sent) -> Any:
        await anyio.sleep_forever()

    others = [f"https://a{n}.example.com/x" for n in range(3)]
    web.handlers = {("GET", PRM): lambda sent: answer(200, resource(*others))}
    web.handlers |= {
        ("GET", f"https://a{n}.example.com/.well-known/{kind}/x"): hangs for n in range(3) for kind in KINDS
    }
    discovery = Discovery(web, URL, ClientConfig(), lambda: 0.0)  # type: ignore[arg-type]
    began = anyio.current_time()
    with pytest.raises(OAuthProblem, match="within 25 s"):
        await discovery.discover(None)
    assert anyio.current_time() - began == pytest.approx(DISCOVERY_SECS, abs=1)


@pytest.mark.parametrize(
    ("at", "allowed"),
    [
        ({Scope.PUBLIC}, {Scope.PUBLIC}),
        ({Scope.PRIVATE}, {Scope.PUBLIC, Scope.PRIVATE}),
        ({Scope.LOOPBACK}, {Scope.PUBLIC, Scope.PRIVATE, Scope.LOOPBACK}),
        ({Scope.FORBIDDEN}, {Scope.PUBLIC}),
    ],
)
async def test_what_may_be_reached_follows_from_where_the_server_is(at: set[Scope], allowed: set[Scope]) -> None:
    web = Web()

    async def scopes_of(url: str) -> frozenset[Scope]:
        assert url == URL
        return frozenset(at)

    web.scopes_of = scopes_of  # type: ignore[method-assign]
    discovery = Discovery(web, URL, ClientConfig(), lambda: 0.0)  # type: ignore[arg-type]
    assert web.allowed == frozenset()
    await discovery.find_resource(None)
    assert web.allowed == allowed


async def test_a_server_that_cannot_be_resolved_is_an_outage() -> None:
    web = Web()

    async def scopes_of(url: str) -> frozenset[Scope]:
        raise FetchProblem("cannot reach mcp.example.com: its name cannot be resolved")

    web.scopes_of = scopes_of  # type: ignore[method-assign]
    discovery = Discovery(web, URL, ClientConfig(), lambda: 0.0)  # type: ignore[arg-type]
    with pytest.raises(OAuthProblem) as caught:
        await discovery.discover(None)
    assert caught.value.kind == "outage"
    assert web.sent == []
