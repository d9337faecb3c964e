"""Who may read the metrics: whoever asks from this machine itself, or has the token."""

import hmac
import re
from collections.abc import Mapping
from ipaddress import ip_address

from server.settings import Settings

# With any of these a proxy has passed the request on, from wherever.
_PROXIES = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
)
_OURSELVES = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.ASCII)


def may_read(
    settings: Settings, client: str | None, http_version: str, headers: Mapping[str, str]
) -> bool:
    """Whether a request from this address, with these headers, may see the metrics."""
    return _has_token(settings, headers) or _is_from_here(client, http_version, headers)


def _has_token(settings: Settings, headers: Mapping[str, str]) -> bool:
    token = settings.metrics_token
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return (
        token is not None
        and scheme.lower() == "bearer"
        and hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
    )


def _is_from_here(client: str | None, http_version: str, headers: Mapping[str, str]) -> bool:
    """Whether nobody stands between: not a proxy on this machine, nor a page in a browser on it.

    nginx adds no header unless it is told to, but then speaks HTTP/1.0; and a page whose name was
    made to lead here (DNS rebinding) has that name as its host.
    """
    return (
        _is_loopback(client)
        and http_version != "1.0"
        and not any(name in headers for name in _PROXIES)
        and _OURSELVES.fullmatch(headers.get("host", "")) is not None
    )


def _is_loopback(client: str | None) -> bool:
    try:
        address = ip_address(client or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
