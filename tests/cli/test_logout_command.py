"""`moltis mcp logout`, and `moltis mcp reauth --new-client`: what is asked of the daemon, and what a person reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon

Start = Callable[[dict[str, Any]], FakeDaemon]


@pytest.mark.parametrize(("flags", "params"), [([], {}), (["--forget-client"], {"forget_client": True})])
def test_logout_says_how_to_log_in_again(shell: Shell, daemon: Start, flags: list[str], params: dict[str, Any]) -> None:
    fake = daemon({"mcp.logout": {"ok": True}})
    done = shell.moltis("mcp", "logout", "x", "y", *flags)
    assert (done.returncode, done.stdout) == (0, "")
    assert "moltis: logged out of x; moltis mcp reauth x logs in again" in done.stderr
    assert fake.asked == [("mcp.logout", {"name": name, **params}) for name in ("x", "y")]


def test_reauth_asks_for_a_new_registration_only_if_it_is_told_to(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.reauth": {"ok": True, "oauth_pending": True, "auth_url": "https://as.example/a"}})
    assert shell.moltis("mcp", "reauth", "x", "--no-wait").returncode == 0
    said = shell.moltis("mcp", "reauth", "x", "--no-wait", "--new-client").stderr
    assert [params for _, params in fake.asked] == [{"name": "x"}, {"name": "x", "new_client": True}]
    assert "if the page does not know moltis: moltis mcp reauth x --new-client" in said
