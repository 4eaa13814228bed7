"""Whose client has left: found out by asking the kernel about the connections of requests that take long, all in one call.

A request costs nothing for it: no watcher, no timer, no object of its own. The slots' sweep calls `gone` now and then with those
that have waited for a while. Known are the connections of our HTTP front, gunicorn's HTTP and gevent.pywsgi; under any other
server nobody is ever found gone. Uses messages, gevent.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Container, Iterable
from typing import Any

from gevent.monkey import get_original

from greenlua.messages import Call

CONNECTION = "greenlua.connection"
"""Key in the environ of our HTTP front: has ``fileno()``."""

# gevent takes poll out of `select`, or puts one that waits in its place. Windows has none.
_poll: Callable[[], Any] | None = get_original("select", "poll") if hasattr(select, "poll") else None

# Both directions are closed, or it was reset: there is no client.
_CLOSED = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)
# The client sends no more. Only Linux tells it apart from bytes that wait to be read; elsewhere POLLHUP has to do.
_ENDED = getattr(select, "POLLRDHUP", 0)


def gone(calls: Iterable[Call], finishing: Container[int] = ()) -> list[Call]:
    """Those whose client has closed its connection, or its side of it. Never waits.

    Args:
        calls: requests that are inside.
        finishing: numbers of the handlers that go on without a client.
    """
    if _poll is None:
        return []
    poll = _poll()
    by_descriptor: dict[int, list[Call]] = {}
    for call in calls:
        descriptor = -1 if call.number in finishing else _descriptor(call.environ)
        if descriptor >= 0:
            by_descriptor.setdefault(descriptor, []).append(call)
            poll.register(descriptor, _ENDED)
    found: list[Call] = []
    if by_descriptor:
        for descriptor, events in poll.poll(0):
            found += [call for call in by_descriptor[descriptor] if events & _CLOSED or _has_ended(call, events)]
    return found


def _has_ended(call: Call, events: int) -> bool:
    """A client that closed its side after its request counts as gone, but not while the handler still reads what it sent."""
    incoming = call.incoming
    return bool(events & _ENDED) and (incoming is None or incoming.complete)


def _descriptor(environ: dict[str, Any]) -> int:
    """Of the client's socket; -1 where it is not known, or closed on our side."""
    connection = environ.get(CONNECTION) or environ.get("gunicorn.socket")
    if connection is None:
        connection = getattr(environ["wsgi.input"], "rfile", None)  # pywsgi's input
    try:
        descriptor: int = connection.fileno() if connection is not None else -1
    except (OSError, ValueError, AttributeError):  # ValueError: a closed file
        return -1
    return descriptor
