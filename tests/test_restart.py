"""The Lua greenlet dies, from a bug of ours or by somebody's hand: all who wait are answered, and a fresh VM serves."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua.channel import Channel
from greenlua.dispatcher import Dispatcher
from greenlua.errors import ConfigurationError
from greenlua.streams import StreamError
from greenlua.testing import serve
from tests.test_reload import Subject, Write, fault_of, subject, version, wait_until

__all__ = ["subject"]

MORE = """
app:get('/long', function() sleep(60) end)
app:get('/stream', function() return response.stream(function(write) write('begun') sleep(60) end) end)
app:get('/count', function() count = (count or 0) + 1 return tostring(count) end)
"""


def kill(it: Subject) -> None:
    """Ends the Lua greenlet, and waits until that has been noticed."""
    serving: Any = it.app._life.serving
    serving.dispatcher._greenlet.kill()
    wait_until(lambda: serving.dead)


def test_all_who_wait_are_answered_and_a_fresh_vm_serves(subject: Any, lua: str, caplog: Any) -> None:
    body = version("one", MORE + "app:every(0.01, function() ticks = (ticks or 0) + 1 end)")
    it = subject(body + "app:get('/ticks', function() return tostring(ticks or 0) end)", lua=lua, slots=8)
    assert it.ask("/count")[1] == b"1"
    serving = it.app.start()
    parked = [gevent.spawn(it.ask, "/long") for _ in range(3)]
    stream = gevent.spawn(fault_of, it.ask, "/stream")
    wait_until(lambda: it.app.statistics()["vm"]["parked"] >= 4)
    queued: Any = gevent.spawn(it.ask)
    gevent.sleep(0)
    assert serving.pool.in_use == 5
    kill(it)
    assert [each.get(timeout=10)[0] for each in parked] == [500] * 3
    assert queued.get(timeout=10)[0] in (200, 500)  # it may have been served just before
    assert isinstance(stream.get(timeout=10), StreamError)
    wait_until(lambda: it.ask()[0] == 200)
    assert it.ask("/count")[1] == b"1"  # another VM
    assert it.figures() == {"reloads": 0, "reload_failures": 0, "restarts": 1}
    assert it.app.statistics()["pool"] | {"taken": 0} == {
        "size": 8, "free": 8, "in_use": 0, "taken": 0, "expired": 0, "disconnected": 0, "abandoned": 0, "refused": 0,
    }  # fmt: skip
    wait_until(lambda: int(it.ask("/ticks")[1]) > 2)
    assert "the Lua greenlet has ended" in caplog.text
    assert "a fresh Lua VM serves app.lua" in caplog.text
    wait_until(lambda: not serving.pool.in_use)


def test_who_waits_for_a_place_in_the_queue_is_answered_too_and_only_once(
    subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, gate = Channel.drain, gevent.event.Event()
    monkeypatch.setattr(Channel, "drain", lambda channel, maximum: (gate.wait(), drain(channel, maximum))[1])
    gate.set()
    it = subject(version("one", MORE), queue_capacity=1, queue_timeout=0.3)
    assert it.ask()[0] == 200
    serving = it.app.start()
    gate.clear()
    assert it.ask()[0] == 200  # the Lua greenlet comes to the gate behind it
    waiting: list[Any] = [gevent.spawn(it.ask) for _ in range(4)]
    wait_until(lambda: serving.channel.statistics()["waiting_outside"] == 3)
    kill(it)
    gate.set()
    assert [each.get(timeout=10)[0] for each in waiting] == [500] * 4
    gevent.sleep(0.4)  # past their queue_timeout
    serving._refuse()  # as the sweep does while a stream out of that VM is still being sent
    wait_until(lambda: it.ask()[0] == 200)


def test_a_death_in_the_middle_of_computing_is_survived_too(subject: Any, lua: str) -> None:
    it = subject(
        version("one", "app:get('/spin', function() while true do pcall(function() end) end end)"),
        lua=lua,
        cpu_limit=60,
    )
    it.ask()
    serving = it.app.start()
    spinning = gevent.spawn(it.ask, "/spin")
    wait_until(lambda: serving.pool.in_use)
    gevent.sleep(0.05)
    serving.dispatcher._greenlet.kill(block=False)
    assert spinning.get(timeout=30)[0] == 500
    wait_until(lambda: it.ask() == (200, b"one"))
    assert it.figures()["restarts"] == 1


def test_an_exception_that_escapes_the_loop_is_logged(subject: Any, monkeypatch: Any, caplog: Any) -> None:
    it = subject(version("one", MORE))
    it.ask()
    # A fault in handling one message costs one request; this is behind that.
    monkeypatch.setattr(Dispatcher, "publish", lambda self: (_ for _ in ()).throw(ZeroDivisionError("planted")))
    it.ask("/count")
    monkeypatch.undo()
    wait_until(lambda: it.figures()["restarts"] == 1)
    wait_until(lambda: it.ask() == (200, b"one"))
    assert "the Lua greenlet failed; this is a bug in greenlua" in caplog.text
    assert "ZeroDivisionError: planted" in caplog.text


def test_on_stop_does_not_run_in_a_vm_that_failed_but_on_start_does_in_the_fresh_one(subject: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    it = subject(
        version("one", "app:on_start(function() log.info('up') end) app:on_stop(function() log.info('down') end)")
    )
    it.ask()
    kill(it)
    wait_until(lambda: it.figures()["restarts"] == 1 and it.ask()[0] == 200)
    lines = [record.getMessage() for record in caplog.records if record.name == "greenlua.app"]
    assert lines == ["up", "up"]


def test_a_vm_that_dies_again_at_once_is_made_anew_ever_later(subject: Any, monkeypatch: Any) -> None:
    it = subject(version("one"))
    it.ask()
    run = Dispatcher._run
    began: list[float] = []

    def die(self: Dispatcher) -> None:
        began.append(time.monotonic())
        raise RuntimeError("planted")

    monkeypatch.setattr(Dispatcher, "_run", die)
    kill(it)
    wait_until(lambda: len(began) >= 2)
    status, body = it.ask()
    assert (status, it.headers["Retry-After"]) == (503, "2")
    assert b"the Lua VM has failed and is made anew" in body
    assert 0.9 < began[1] - began[0] < 10
    assert set(it.app.statistics()) == {"app", "compression"}  # what belongs to the process
    assert it.app.statistics()["app"]["restarts"] == 3
    monkeypatch.setattr(Dispatcher, "_run", run)
    wait_until(lambda: it.ask() == (200, b"one"))
    assert time.monotonic() - began[1] > 1.9


def test_delays_are_doubled_up_to_a_bound_and_forgotten_after_a_while(subject: Any, monkeypatch: Any) -> None:
    it = subject(version("one"))
    it.ask()
    life = it.app._life
    delays: list[float] = []
    sleep = gevent.sleep
    monkeypatch.setattr("greenlua.lifecycle.gevent.sleep", lambda seconds: (delays.append(seconds), sleep(0))[1])
    for _ in range(8):
        kill(it)
        while life.serving is None:
            sleep(0.001)
    monkeypatch.undo()
    own = [delay for delay in delays if delay in (0, 1, 2, 4, 8, 16, 30)]
    assert own == [0, 1, 2, 4, 8, 16, 30, 30]
    life._since -= 11
    kill(it)
    wait_until(lambda: life.serving is not None)
    assert life._delay == 1.0


def test_while_the_files_are_broken_nothing_can_be_made_anew_until_they_are_mended(subject: Any, caplog: Any) -> None:
    it = subject(version("one"))
    it.ask()
    it.edit("oops(")
    kill(it)
    wait_until(lambda: "app.lua could not be loaded after its VM had failed: app.lua:3: " in caplog.text)
    assert it.ask()[0] == 503
    with pytest.raises(ConfigurationError):
        it.app.reload()
    assert "there is no version that goes on" in caplog.text
    it.reload(version("two"))  # and need not wait
    assert it.ask() == (200, b"two")
    gevent.sleep(0.05)
    assert it.app._life._restart is None


def test_a_stop_ends_the_waiting_for_a_fresh_vm(subject: Any) -> None:
    it = subject(version("one"))
    it.ask()
    it.edit("oops(")
    kill(it)
    wait_until(lambda: it.app._life._delay >= 1)
    assert it.app.stop(5) is True
    assert it.ask()[0] == 503
    it.edit(version("two"))
    it.app.start()
    assert it.ask() == (200, b"two")


def test_a_vm_that_dies_while_the_app_is_stopped_is_not_made_anew(subject: Any) -> None:
    it = subject(version("one", MORE))
    it.ask()
    inside = gevent.spawn(it.ask, "/long")
    wait_until(lambda: it.app.start().pool.in_use)
    stopping = gevent.spawn(it.app.stop, 60)
    gevent.sleep(0)
    kill(it)
    stopping.get(timeout=20)
    assert inside.get(timeout=10)[0] == 500
    assert it.app._life.statistics() == {"app": {"reloads": 0, "reload_failures": 0, "restarts": 0}}
    assert it.ask()[0] == 503


def test_a_vm_that_dies_while_a_reload_starts_it_is_a_broken_edit(subject: Any) -> None:
    it = subject(version("one"))
    it.ask()
    it.edit(version("two", "app:on_start(function() sleep(60) end)"))
    reloading = gevent.spawn(fault_of, it.app.reload)
    wait_until(lambda: it.app._life._coming is not None and it.app._life._coming.background._running)
    it.app._life._coming.dispatcher._greenlet.kill()
    assert "the Lua VM failed" in str(reloading.get(timeout=10))
    assert it.ask() == (200, b"one")
    assert it.figures() == {"reloads": 0, "reload_failures": 1, "restarts": 0}


def test_a_retiring_vm_that_dies_harms_only_those_inside_it(subject: Any) -> None:
    it = subject(version("one", MORE))
    inside = gevent.spawn(it.ask, "/long")
    wait_until(lambda: it.app.start().pool.in_use)
    (old,) = [it.app.start()]
    it.reload(version("two"))
    old.dispatcher._greenlet.kill()
    assert inside.get(timeout=10)[0] == 500
    assert it.ask() == (200, b"two")
    wait_until(lambda: not it.retiring)
    assert it.figures()["restarts"] == 0


def test_a_start_whose_vm_dies_fails(subject: Any) -> None:
    it = subject(version("one", "app:on_start(function() sleep(60) end)"))
    starting = gevent.spawn(fault_of, it.app.start)
    wait_until(lambda: it.app._life.loaded is not None and it.app._life.loaded.background._running)
    it.app._life.loaded.dispatcher._greenlet.kill()
    assert "the Lua VM failed" in str(starting.get(timeout=10))


def test_a_stop_while_on_start_runs_ends_the_start(subject: Any) -> None:
    it = subject(version("one", "app:on_start(function() sleep(60) end)"))
    starting = gevent.spawn(fault_of, it.app.start)
    wait_until(lambda: it.app._life.loaded is not None and it.app._life.loaded.background._running)
    it.app.stop(0)
    assert isinstance(starting.get(timeout=10), ConfigurationError)


KILLER = """
def setup(app):
    @app.expose("kill_lua")
    def kill_lua():
        app._life.serving.dispatcher._greenlet.kill(block=False)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_real_server_survives_the_death_of_its_lua_greenlet(write: Write, tmp_path: Path, workers: str) -> None:
    path = write(
        "local app = greenlua.app {}\napp:get('/', function() return 'served' end)\n"
        "app:get('/kill', function() kill_lua() sleep(60) end)\nreturn app"
    )
    (tmp_path / "killer.py").write_text(KILLER)
    environ = {"PYTHONPATH": str(tmp_path) + ":" + str(Path(__file__).parent.parent)}
    with serve(path, "--extend", "killer", "--workers", workers, environ=environ) as server:
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(server.url + "/kill", timeout=20)
            assert caught.value.code == 500
            caught.value.close()
            deadline = time.monotonic() + 20
            while True:
                try:
                    assert urllib.request.urlopen(server.url, timeout=20).read() == b"served"
                    break
                except urllib.error.HTTPError as refusal:
                    error = refusal
                assert (error.code, int(error.headers["Retry-After"]) >= 1) == (503, True)
                error.close()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert server.stop() == 0
        assert "a fresh Lua VM serves app.lua" in server.log
