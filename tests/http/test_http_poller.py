"""Who is told that a socket is readable: on an epoll of our own, and on watchers of gevent's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from front_serving import CLOSE, Serving, echo

import greenlua.http.front
from greenlua.http.poller import TURN, EpollPoller, WatcherPoller


@pytest.fixture(params=[EpollPoller, WatcherPoller])
def poller(request: Any, pairs: Any) -> Iterator[Any]:  # the sockets are closed later
    poller = request.param()
    yield poller
    poller.close()


@pytest.fixture
def pairs() -> Iterator[Any]:
    """pairs(n): so many connected sockets, ours and theirs."""
    made: list[Any] = []

    def make(count: int) -> list[tuple[Any, Any]]:
        made.extend(socket.socketpair() for _ in range(count))
        return made

    yield make
    for ours, theirs in made:
        ours.close()
        theirs.close()


def test_it_calls_back_until_the_bytes_are_read_or_it_is_removed(poller: Any, pairs: Any) -> None:
    ((ours, theirs),) = pairs(1)
    called: list[int] = []

    def callback() -> None:
        called.append(1)

    poller.add(ours.fileno(), callback)
    gevent.sleep(0.01)
    assert len(called) <= 1, "gevent's loop may call once for a number that was another descriptor's before"
    theirs.send(b"x")
    gevent.sleep(0.01)
    assert len(called) > 2
    ours.recv(1)
    gevent.sleep(0.01)
    called.clear()
    gevent.sleep(0.01)
    assert called == []
    theirs.send(b"x")
    poller.remove(ours.fileno(), callback)
    gevent.sleep(0.01)
    assert called == []


def test_a_peer_that_has_gone_is_told_of(poller: Any, pairs: Any) -> None:
    ((ours, theirs),) = pairs(1)
    called: list[int] = []
    poller.add(ours.fileno(), lambda: called.append(1))
    theirs.close()
    gevent.sleep(0.01)
    assert called


def test_what_another_callback_removed_is_not_called(poller: Any, pairs: Any) -> None:
    called: list[str] = []
    first, second = pairs(2)

    def one() -> None:
        called.append("one")
        poller.remove(second[0].fileno(), other)

    def other() -> None:
        called.append("other")
        poller.remove(first[0].fileno(), one)

    poller.add(first[0].fileno(), one)
    poller.add(second[0].fileno(), other)
    first[1].send(b"x")
    second[1].send(b"x")
    gevent.sleep(0.01)
    assert set(called) in ({"one"}, {"other"})


def test_a_descriptor_that_is_anothers_by_now_stays_theirs(poller: Any, pairs: Any) -> None:
    called: list[str] = []

    def before() -> None:
        called.append("before")

    def after() -> None:
        called.append("after")

    ours, theirs = socket.socketpair()
    number = ours.fileno()
    poller.add(number, before)
    ours.close()  # behind its back
    again, peer = socket.socketpair()
    assert again.fileno() == number
    poller.add(number, after)
    poller.remove(number, before)
    peer.send(b"x")
    gevent.sleep(0.01)
    assert set(called) == {"after"}
    again.close()
    poller.remove(number, after)
    poller.remove(number, after)
    for one in (theirs, peer):
        one.close()


def test_one_that_fails_keeps_nobody_else_from_being_called(poller: Any, pairs: Any, capsys: Any) -> None:
    called: list[int] = []

    def fail() -> None:
        raise RuntimeError("of a callback")

    for (ours, theirs), callback in zip(pairs(2), (fail, lambda: called.append(1)), strict=True):
        poller.add(ours.fileno(), callback)
        theirs.send(b"x")
    gevent.sleep(0.01)
    assert called
    poller.close()
    assert "of a callback" in capsys.readouterr().err


def test_a_turn_is_told_of_few_and_nobody_is_forgotten(pairs: Any) -> None:
    poller = EpollPoller()
    count = 3 * TURN
    turns: list[int] = []
    called: list[int] = []
    gevent.get_hub().loop.prepare().start(lambda: turns.append(len(called)))

    def read(number: int, ours: Any) -> None:
        ours.recv(1)
        called.append(number)

    for number, (ours, theirs) in enumerate(pairs(count)):
        poller.add(ours.fileno(), lambda number=number, ours=ours: read(number, ours))
        theirs.send(b"x")
    while len(called) < count:
        gevent.sleep(0.001)
    assert sorted(called) == list(range(count))
    assert max(after - before for before, after in zip([0, *turns], [*turns, count], strict=True)) <= TURN
    poller.close()


@pytest.mark.parametrize("kind", [EpollPoller, WatcherPoller])
def test_the_front_serves_on_both(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greenlua.http.front, "Poller", kind)
    with Serving(echo) as server:
        for number in range(20):
            first, second = server.exchange(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number + CLOSE)
            assert first.json()["path"] == f"/{number}"
            assert second.status == 200
