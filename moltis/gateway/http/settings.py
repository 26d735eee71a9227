"""What moltis.toml says about the gateway's endpoint, as far as serving requests goes."""

from __future__ import annotations

import msgspec

__all__ = ["HttpSettings"]


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that can be replaced while requests are served; see `Application.reconfigure`.

    require_token: whether an access token is needed; else whoever reaches the address is served.
    allowed_hosts: names that it may be reached under besides its address.
    allowed_origins: of web pages that may use it, as `scheme://host[:port]`.
    rate_limit_per_minute: requests of one principal; 0: none.
    max_body_bytes: one request's body; at least 1.
    listen_host: the host part of `[gateway] listen`, as written.
    """

    require_token: bool = True
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    rate_limit_per_minute: int = 0
    max_body_bytes: int = 16 * 1024 * 1024
    listen_host: str = "127.0.0.1"
