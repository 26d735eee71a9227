"""A reply is gone once it is sent: it must not wait for a garbage collection, which a megabyte does not hasten."""

from __future__ import annotations

import weakref

import pytest
from forwarding_fakes import RESULT, bench

from moltis.gateway.api import Outlet


class Kept:
    """Something that a reply hangs on."""

    def tell(self, message: bytes) -> bool:
        return True

    def can_ask(self) -> bool:
        return True

    def reply(self, message: bytes, status: int = 200) -> None:
        self.message = message


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("server_era", ["legacy", "modern"])
@pytest.mark.parametrize("host_era", ["legacy", "modern"])
@pytest.mark.parametrize("ending", ["succeed", "cancel"])
def test_nothing_holds_on_to_a_request_that_is_over(host_era: str, server_era: str, ending: str) -> None:
    one = bench(server_era)
    outlet: Outlet = Kept()
    seen = weakref.ref(outlet)
    tried = getattr(one, host_era)(outlet=outlet)
    if ending == "succeed":
        one.call.succeed(RESULT)
        assert RESULT[1:] in tried.outlet.message
    else:
        tried.running.cancel("enough")
    one.upstream.calls.clear()
    del outlet, tried
    assert seen() is None
