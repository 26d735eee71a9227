"""Work of a login that would block the event loop, on a thread; that none can be started is an outage as any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from moltis.errors import Busy
from moltis.oauth.model import OAuthProblem
from moltis.threads import in_thread

T = TypeVar("T")


async def blocking(work: Callable[..., T], *args: object) -> T:
    """Call `work` on a thread and return what it returns.

    Raises:
        OAuthProblem: `outage`: no thread can be started.
    """
    try:
        return await in_thread(work, *args)
    except Busy as busy:
        raise OAuthProblem(busy.message, kind="outage") from None
