"""`Limits`: every bound that the front keeps, as one frozen value.

Used by every other file of this package; uses none of them. Constructing it checks the numbers and does nothing else.
Times are seconds, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may cost. A value that makes no sense raises ValueError and names the field."""

    max_target: int = 8 * 1024
    """Longest request target; longer is 414. Apache and nginx allow 8 KiB for the whole line."""

    max_header: int = 32 * 1024
    """All header lines of a request together; more is 431. The trailers of a chunked body get the same."""

    max_header_count: int = 100
    """Header lines in a request; more is 431."""

    max_body: int = 1024 * 1024
    """Longest request body; more is 413."""

    max_chunk_line: int = 256
    """A chunk-size line with its extensions. Nobody reads extensions, so a long one is only a cost."""

    header_timeout: float = 10.0
    """From the first byte of a request to the end of its head, however the bytes trickle in; then 408.
    Also the time a new connection has to send its first byte, and a TLS handshake to finish."""

    body_timeout: float = 30.0
    """Credit for waiting on a body. Waiting spends it, received bytes earn it back at `min_rate`; then 408."""

    keepalive_timeout: float = 75.0
    """How long a connection may be idle between requests. 0 answers one request per connection."""

    write_timeout: float = 30.0
    """Credit for waiting on a client that does not read; bytes it takes earn it back at `min_rate`."""

    min_rate: int = 500
    """Bytes per second that a body or a response must keep on average, as in Apache's mod_reqtimeout."""

    max_unsent: int = 256 * 1024 * 1024
    """Answers in memory that wait for clients to read on, of all connections together; with more, whoever has read nothing for the
    longest time is cut off. 0 is no bound."""

    linger_timeout: float = 2.0
    """After the last answer on a connection that still sends: how long its bytes are thrown away, so that
    the answer is not destroyed by a reset."""

    max_drain: int = 64 * 1024
    """Unread body that is thrown away to keep a connection alive; with more left, the connection closes."""

    drain_timeout: float = 30.0
    """Graceful stop: what requests in flight get to finish."""

    max_connections: int = 0
    """Open connections before accepting pauses; 0 is no bound but the file descriptors."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose Forwarded, X-Forwarded-* and PROXY lines count; `unix` is a peer on a Unix
    socket, `*` is anybody."""

    proxy_protocol: bool = False
    """Connections from `trusted_proxies` begin with a PROXY line (version 1 or 2)."""

    def __post_init__(self) -> None:
        may_be_zero = {"keepalive_timeout", "max_drain", "drain_timeout", "max_connections", "max_body", "max_unsent"}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if value < 0 or (value == 0 and field.name not in may_be_zero):
                raise ValueError(f"{field.name} must be {'at least 0' if value < 0 else 'more than 0'}, not {value!r}")
