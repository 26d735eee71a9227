"""`[gateway]`: what it may say, and that an address which others reach is never open to all."""

from __future__ import annotations

import pytest

from moltis.config.listen import is_loopback, split_listen
from moltis.config.load import loads
from moltis.config.plan import GatewayPlan


def test_every_key_is_read() -> None:
    loaded = loads(
        '[gateway]\nenabled = false\nlisten = "[::1]:0"\nrequire_token = false\nallowed_origins = ["http://A.example:3000"]\n'
        'rate_limit_per_minute = 7\ncatalog_rate_limit_per_minute = 8\ntool_separator = "."\n'
    )
    assert loaded.problems == ()
    assert loaded.plan.gateway == GatewayPlan(False, "[::1]:0", False, ("http://a.example:3000",), 7, 8, ".")


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("127.0.0.1:8642", ("127.0.0.1", 8642)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_an_address_and_a_port_are_told_apart(text: str, given: tuple[str, int]) -> None:
    assert split_listen(text) == given


@pytest.mark.parametrize(
    "text",
    [
        "8642",
        ":8642",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:80",
        "example.com:80",
        "a b:1",
    ],
)
def test_what_is_no_address_is_an_error_and_the_default_stays(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        split_listen(text)
    loaded = loads(f'[gateway]\nlisten = "{text}"\n')
    assert [problem.key for problem in loaded.problems] == ["gateway.listen"]
    assert loaded.plan.gateway == GatewayPlan()


@pytest.mark.parametrize(
    ("listen", "is_open"),
    [
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("192.0.2.1:1", True),
    ],
)
def test_an_address_that_others_reach_needs_tokens(listen: str, is_open: bool) -> None:
    loaded = loads(f'[gateway]\nlisten = "{listen}"\nrequire_token = false\n')
    assert is_loopback(split_listen(listen)[0]) is not is_open
    assert [p.key for p in loaded.problems] == (["gateway.require_token"] if is_open else [])
    assert (loaded.plan.gateway.problem is not None) is is_open
    assert loads(f'[gateway]\nlisten = "{listen}"\n').plan.gateway.problem is None
    assert (
        loads(f'[gateway]\nenabled = false\nlisten = "{listen}"\nrequire_token = false\n').plan.gateway.problem is None
    )


@pytest.mark.parametrize("origin", ["app.example.com", "https://a/path", "ftp://a", "https://", "https://u@a", "*"])
def test_an_origin_has_a_scheme_and_no_path(origin: str) -> None:
    assert [p.key for p in loads(f'[gateway]\nallowed_origins = ["{origin}"]\n').problems] == [
        "gateway.allowed_origins[0]"
    ]


def test_a_separator_that_names_may_hold_is_refused() -> None:
    (problem,) = loads('[gateway]\ntool_separator = "_"\n').problems
    assert problem.key == "gateway.tool_separator"
    assert "__, ., /" in problem.message
