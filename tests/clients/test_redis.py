"""greenlua.redis against a real redis-server: commands, pipelines, subscriptions, limits, and what happens when the server goes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from greenlua.clients import redis as redis_client
from greenlua.clients.redis import Client, CommandRefused, check, wait_of, word
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings
from greenlua.vm import MODULES
from tests.clients.redis_server import CuttingServer, RedisServer, running_redis
from tests.clients.running_lua import LuaProcess, Promise, promises, running_lua, wait_until

HEAD = 'redis = require "greenlua.redis"'
EMPTY = 'redis.call("FLUSHALL")\n'
CLIENTS = Path(redis_client.__file__).parent
DOCS = CLIENTS.parent.parent / "docs"


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=list(MODULES))
def redis(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LuaProcess]:
    """An app with the client, on each Lua. A command has one second."""
    with running_lua(
        tmp_path_factory.mktemp("app"),
        HEAD,
        lua=request.param,
        redis_url=redis_server.url,
        redis_timeout=1,
        redis_pool=20,
    ) as process:
        yield process


@pytest.fixture(scope="module")
def short(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    """An app whose requests have one second."""
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, redis_url=redis_server.url, request_timeout=1) as process:
        yield process


# ------------------------------------------------------------ commands


@pytest.mark.parametrize("promise", promises("redis_promises.lua"), ids=str)
def test_promise(redis: LuaProcess, promise: Promise) -> None:
    values, kind, text = redis.outcome(EMPTY + promise.source)
    if promise.error is None:
        assert values == promise.values, text
        return
    assert values is None
    assert (kind, promise.text in text) == (promise.error or None, True), text
    assert re.search(r"\btest\.lua:\d+: ", text), "an error names the place of user code"


def test_the_other_commands_of_a_failed_pipeline_were_done(redis: LuaProcess) -> None:
    source = 'pcall(redis.pipeline, function(p) p.set("a", "x") p.incr("a") p.set("b", 1) end%s) return redis.get("b")'
    assert redis.run(EMPTY + source % "") == ["1"]
    assert redis.run(EMPTY + source % ", { transaction = true }") == ["1"]
    refused = 'pcall(redis.pipeline, function(p) p.set("b", 1) p.call("GET") end, { transaction = true }) return redis.get("b")'
    assert redis.run(EMPTY + refused) == [None]


def test_nothing_comes_between_the_commands_of_a_transaction(redis: LuaProcess) -> None:
    redis.run(EMPTY)
    source = """
    for _ = 1, 20 do
      local r = redis.pipeline(function(p) for i = 1, 10 do p.incr("n") end end, { transaction = true })
      for i = 2, 10 do assert(r[i] == r[i - 1] + 1) end
    end
    """
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(redis.run, [source] * 4))
    assert redis.run('return redis.get("n")') == ["800"]


# ------------------------------------------------------------ waiting


def test_requests_wait_for_redis_at_the_same_time(redis: LuaProcess) -> None:
    redis.run(EMPTY)
    began = time.monotonic()
    with ThreadPoolExecutor(11) as threads:
        waiting = [threads.submit(redis.run, f'return redis.blpop("queue{n}", 20)') for n in range(10)]
        wait_until(lambda: redis.run('return #redis.call("CLIENT", "LIST") > 0'), "others are served meanwhile")
        for n in range(10):
            redis.run(f'redis.rpush("queue{n}", {n})')
        assert [future.result() for future in waiting] == [[[f"queue{n}", str(n)]] for n in range(10)]
    assert time.monotonic() - began < 15


def test_a_blocking_command_may_wait_longer_than_redis_timeout(redis: LuaProcess) -> None:
    began = time.monotonic()
    assert redis.run(EMPTY + 'return redis.blpop("none", 1.5), redis.ping()') == [None, "PONG"]
    assert time.monotonic() - began >= 1.5


def test_a_command_that_is_not_answered_in_time_fails_and_its_answer_reaches_nobody_else(redis: LuaProcess) -> None:
    script = "local t = redis.call('TIME')[1] + 3 while tonumber(redis.call('TIME')[1]) < t do end return 'late'"
    values, kind, text = redis.outcome(EMPTY + f'redis.eval("{script}", 0)')  # Redis is busy for 2 to 3 seconds
    assert (values, kind) == (None, "TimeoutError"), text
    wait_until(lambda: redis.outcome("return redis.ping()").values, "the script ends")
    assert redis.run("return redis.pipeline(function(p) for i = 1, 30 do p.ping() end end)") == [["PONG"] * 30]
    assert redis.run("local t = {} for i = 1, 20 do t[i] = spawn(redis.ping) end return wait(t)") == [["PONG"] * 20]


def test_a_request_that_was_given_up_gives_its_connection_back(short: LuaProcess, redis_server: RedisServer) -> None:
    with ThreadPoolExecutor(1) as thread:
        request = thread.submit(short.ask, 'redis.blpop("never", 60)')
        wait_until(lambda: b"flags=b " in redis_server.command("CLIENT", "LIST"), "it waits in Redis")
        assert request.result()[0] == 504
    wait_until(lambda: b"flags=b " not in redis_server.command("CLIENT", "LIST"), "the connection is closed")
    assert short.run("return redis.ping()") == ["PONG"]


def test_connections_are_bounded_and_more_commands_wait_for_one(redis_server: RedisServer, tmp_path: Path) -> None:
    with running_lua(tmp_path, HEAD, redis_url=redis_server.url, redis_pool=2, redis_timeout=1) as process:
        source = """
        local tasks = {}
        for i = 1, 20 do tasks[i] = spawn(function() return redis.incr("bounded") end) end
        return #wait(tasks), redis.get("bounded")
        """
        assert process.run('redis.del("bounded")' + source) == [20, "20"]
        mine = 'local n = 0 for _ in redis.call("CLIENT", "LIST"):gmatch("cmd=") do n = n + 1 end return n'
        assert process.run(mine)[0] <= 2 + 25, "and those of the other processes of this module"
        source = """
        local tasks = {}
        for i = 1, 2 do tasks[i] = spawn(redis.blpop, "none", 3) end
        sleep(0.1)
        return select(2, pcall(redis.ping)).type, tostring(select(2, pcall(redis.ping)))
        """
        kind, text = process.run(source)
        assert kind == "ConnectionError"
        assert "no connection was free in time (settings redis_pool and redis_timeout)" in text


def test_cancelled_commands_leave_the_pool_whole(redis_server: RedisServer, tmp_path: Path) -> None:
    source = """
    local tasks = {}
    for i = 1, 40 do -- most of them wait for a connection, some for an answer, some while they connect
      tasks[i] = spawn(function()
        for j = 1, 5 do pcall(timeout, 0.001 * ((i + j) % 30), redis.blpop, "cancelled", 1) end
      end)
    end
    wait(tasks)
    for i = 1, 40 do tasks[i] = spawn(redis.ping) end
    return #wait(tasks)
    """
    with running_lua(tmp_path, HEAD, redis_url=redis_server.url, redis_pool=2, redis_timeout=5) as process:
        for _ in range(3):
            assert process.run(source) == [40]


def test_the_password_of_the_url_is_used(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--requirepass", "secret%") as server:
        for password, expected in (("secret%25", "PONG"), ("wrong", "ConnectionError"), ("", "ConnectionError")):
            url = f"redis://:{password}@127.0.0.1:{server.port}/0"
            with running_lua(tmp_path, HEAD, redis_url=url) as process:
                values, kind, text = process.outcome("return redis.ping()")
                assert (values or [kind])[0] == expected, text
                assert "wrong" not in text


# ------------------------------------------------------------ subscriptions


def test_messages_arrive_in_order_with_their_channel(redis: LuaProcess) -> None:
    source = """
    local sub = redis.subscribe { "one", "two" }
    local heard = redis.publish("one", "a")
    redis.publish("two", "\\0b")
    redis.publish("three", "not for us")
    redis.publish("one", "c")
    local got = {}
    for i = 1, 3 do
      local message, channel = sub:receive(5)
      got[i] = { message, channel }
    end
    local nothing = sub:receive(0.05)
    sub:close()
    sub:close()
    return heard, got, nothing, redis.publish("one", "nobody")
    """
    wanted = [["a", "one"], ["\0b", "two"], ["c", "one"]]
    assert redis.run(source) == [1, wanted, None, 0]


def test_patterns_give_the_channel_itself(redis: LuaProcess) -> None:
    source = """
    local sub = redis.subscribe("news.*", { pattern = true })
    redis.publish("news.sport", "goal")
    return sub:receive(5)
    """
    assert redis.run(source) == ["goal", "news.sport"]


def test_a_subscription_waits_while_others_are_served(redis: LuaProcess, redis_server: RedisServer) -> None:
    with ThreadPoolExecutor(1) as thread:
        listener = thread.submit(redis.run, 'return redis.subscribe("later"):receive(20)')
        wait_until(lambda: redis.run('return redis.publish("later", "here")') == [1], "it listens")
        assert listener.result() == ["here", "later"]


def test_a_receive_that_was_cancelled_loses_no_message(redis: LuaProcess) -> None:
    source = """
    local sub = redis.subscribe("patient")
    local ok = pcall(timeout, 0.05, function() sub:receive() end)
    redis.publish("patient", "still here")
    return ok, sub:receive(5)
    """
    assert redis.run(source) == [False, "still here", "patient"]


def test_two_tasks_cannot_receive_from_one_subscription(redis: LuaProcess) -> None:
    source = """
    local sub = redis.subscribe("shared")
    local first = spawn(function() return (sub:receive(5)) end)
    sleep(0.05)
    local ok, failure = pcall(sub.receive, sub, 1)
    redis.publish("shared", "for the first")
    return ok, failure.type, tostring(failure), wait(first)
    """
    ok, kind, text, first = redis.run(source)
    assert (ok, kind, first) == (False, "CommandRefused", "for the first")
    assert "another task is waiting for a message of this subscription" in text


def test_a_subscription_ends_with_its_request(redis: LuaProcess, redis_server: RedisServer) -> None:
    redis.run('redis.subscribe("forgotten")')
    wait_until(lambda: listeners(redis_server, "forgotten") == 0, "the subscription is closed")


def test_a_subscription_ends_when_its_request_is_given_up(short: LuaProcess, redis_server: RedisServer) -> None:
    with ThreadPoolExecutor(1) as thread:
        request = thread.submit(short.ask, 'redis.subscribe("abandoned"):receive()')
        wait_until(lambda: listeners(redis_server, "abandoned") == 1, "it listens")
        assert request.result()[0] == 504
    wait_until(lambda: listeners(redis_server, "abandoned") == 0, "the subscription is closed")


def test_close_wakes_who_waits(redis: LuaProcess) -> None:
    source = """
    local sub = redis.subscribe("closed meanwhile")
    local task = spawn(function() return pcall(sub.receive, sub) end)
    sleep(0.05)
    sub:close()
    local ok, failure = wait(task)
    return ok, failure.type
    """
    assert redis.run(source) == [False, "SubscriptionClosed"]


def test_a_lost_connection_ends_a_subscription_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server, running_lua(tmp_path, HEAD, redis_url=server.url) as process:
        source = """
        local sub = redis.subscribe("cut")
        local first = select(2, pcall(sub.receive, sub, 20))
        local second = select(2, pcall(sub.receive, sub, 20))
        return first.type, tostring(first), second.type
        """
        with ThreadPoolExecutor(1) as thread:
            listener = thread.submit(process.run, source)
            wait_until(lambda: listeners(server, "cut") == 1, "it listens")
            server.stop()
            first, text, second = listener.result()
    assert (first, second) == ("ConnectionError", "SubscriptionClosed")
    assert "the subscription is lost, and messages may be" in text


def test_subscriptions_are_bounded(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_client, "SUBSCRIPTIONS_MAX", 2)
    client = Client(Settings(redis_url=redis_server.url), Path())
    try:
        subscribe, unsubscribe = client.operations["subscribe"], client.operations["unsubscribe"]
        subscribe(1, ["bound"], False)
        subscribe(2, ["bound"], False)
        with pytest.raises(Exception, match="there are 2 subscriptions already; close some"):
            subscribe(3, ["bound"], False)
        assert (unsubscribe(1), unsubscribe(1)) == (True, False)
        subscribe(3, ["bound"], False)
        assert listeners(redis_server, "bound") == 2
    finally:
        client.close()
    wait_until(lambda: listeners(redis_server, "bound") == 0, "close() closes them all")


def listeners(server: RedisServer, channel: str) -> int:
    answer = server.command("PUBSUB", "NUMSUB", f'"{channel}"')
    return int(answer.rpartition(b":")[2])


# ------------------------------------------------------------ a server that goes


def test_the_next_call_after_a_restart_works(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server, running_lua(tmp_path, HEAD, redis_url=server.url) as process:
        fill = 'local tasks = {} for i = 1, 10 do tasks[i] = spawn(redis.incr, "n") end wait(tasks)'
        process.run(fill)  # several connections, which are idle now
        server.stop()
        server.start()
        assert process.run('return redis.get("n"), redis.incr("n")') == [None, 1]
        process.run(fill)
        assert process.run('return redis.get("n")') == ["11"]

        server.stop()
        for _ in range(2):
            values, kind, text = process.outcome('redis.incr("n")')
            assert (values, kind) == (None, "ConnectionError")
            assert "test.lua:1: ConnectionError: " in text
            assert "Connection refused" in text
        server.start()
        assert process.run('return redis.incr("n")') == [1]


SENT_ONCE: list[tuple[str, list[Any]]] = [
    ("call", [["INCR", "n"]]),
    ("pipeline", [[["INCR", "n"]], False]),
    ("pipeline", [[["INCR", "n"]], True]),
]


@pytest.mark.parametrize(("operation", "arguments"), SENT_ONCE)
def test_a_command_that_was_cut_off_is_not_sent_again(operation: str, arguments: list[Any]) -> None:
    with CuttingServer(b"INCR") as server:
        client = Client(Settings(redis_url=server.url), Path())
        with pytest.raises(Exception, match="Connection closed by server") as caught:
            client.operations[operation](*arguments)
        client.close()
    assert type(caught.value).__name__ == "ConnectionError"
    assert server.seen == 1


def test_loading_the_app_needs_no_server(tmp_path: Path) -> None:
    with running_lua(tmp_path, HEAD, redis_url="redis://127.0.0.1:1/0") as process:
        assert process.run("return 1") == [1]
        assert process.outcome("redis.ping()").type == "ConnectionError"


# ------------------------------------------------------------ settings

WRONG_URLS = ["http://localhost", "localhost:6379", "redis://localhost:port/0", "redis://localhost/0?colour=red"]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_url_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url: "):
        Client(Settings(redis_url=url), Path())


def test_a_url_cannot_undo_what_the_client_relies_on(redis_server: RedisServer) -> None:
    url = redis_server.url + "?protocol=3&decode_responses=yes&socket_timeout=99&max_connections=99&timeout=99"
    client = Client(Settings(redis_url=url, redis_timeout=2.0, redis_pool=3), Path())
    try:
        assert client.operations["call"](["HSET", "url", "a", 1]) in (0, 1)
        assert client.operations["call"](["HGETALL", "url"]) == [b"a", b"1"]
        assert (client._pool.max_connections, client._pool.timeout) == (3, 2.0)
        assert client._pool.connection_kwargs["socket_timeout"] == 2.0
    finally:
        client.close()


def test_a_unix_socket_and_a_database_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running_redis(tmp_path, "--unixsocket", str(path)) as server:
        client = Client(Settings(redis_url=f"unix://{path}?db=3"), Path())
        try:
            assert client.operations["call"](["SET", "here", 1]) == b"OK"
            assert server.command("GET", "here") == b"$-1\r\n"
        finally:
            client.close()


# ------------------------------------------------------------ parts

WORDS = [(b"\xff", b"\xff"), ("ä", "ä".encode()), (0, b"0"), (-7, b"-7"), (2**63 - 1, b"9223372036854775807"), (3.0, b"3"),
         (-0.0, b"0"), (0.1, b"0.1"), (1e300, b"1e+300"), (float("inf"), b"inf"), (2.0**62, b"4611686018427387904")]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), WORDS)
def test_a_word_is_what_redis_reads_as_the_same_value(value: Any, expected: bytes) -> None:
    assert word(value) == expected
    assert not isinstance(value, float) or float(word(value)) == value


WAITS: list[tuple[str, float | None]] = [
    ("GET a", None),
    ("BLPOP a b 1.5", 1.5),
    ("brpop a 2", 2),
    ("BLMOVE a b LEFT LEFT 3", 3),
    ("BLMPOP 4 1 a LEFT", 4),
    ("BZMPOP 0.5 1 a MIN", 0.5),
    ("BZPOPMIN a 6", 6),
    ("BRPOPLPUSH a b 7", 7),
    ("XREAD COUNT 1 BLOCK 1500 STREAMS s $", 1.5),
    ("XREAD block 250 STREAMS s $", 0.25),
    ("XREADGROUP GROUP g c BLOCK 2000 STREAMS s >", 2),
    ("XREAD COUNT 1 STREAMS block 0", None),
    ("XREAD STREAMS s 0", None),
    ("WAIT 1 500", 0.5),
    ("BLPOP a x", None),
    ("BLPOP a -1", None),
    ("BLPOP", None),
]


@pytest.mark.parametrize(("command", "seconds"), WAITS)
def test_how_long_a_command_waits_is_known(command: str, seconds: float | None) -> None:
    assert wait_of(command.encode().split()) == seconds


@pytest.mark.parametrize(
    "command", ["BLPOP a 0", "XREAD BLOCK 0 STREAMS s $", "BLPOP a 86401", "BLPOP a inf", "BLPOP a nan", "WAIT 1 0"]
)
def test_a_wait_without_an_end_is_refused(command: str) -> None:
    with pytest.raises(CommandRefused, match="say how long it waits"):
        wait_of(command.encode().split())


def test_every_refused_command_says_what_to_do() -> None:
    for name, advice in redis_client.REFUSED.items():
        with pytest.raises(CommandRefused, match=re.escape(f"{name} cannot be sent by redis.call: {advice}")):
            check([name.lower().encode()])


# ------------------------------------------------------------ pages and types


def helpers() -> set[str]:
    block = (CLIENTS / "redis.lua").read_text().partition("local HELPERS = {")[2].partition("}")[0]
    return set(re.findall(r'"(\w+)"', block)) | {"set", "hgetall"}


def test_editor_types_and_page_name_every_helper() -> None:
    fields = set(re.findall(r"^---@field (\w+) fun", (CLIENTS / "redis.d.lua").read_text(), re.MULTILINE))
    assert fields == helpers() | {"call"}
    listed = (DOCS / "redis.md").read_text().partition("<!-- helpers -->")[2].partition("<!-- /helpers -->")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == helpers()


def test_every_refused_command_is_on_the_page() -> None:
    page = (DOCS / "redis.md").read_text()
    names = set(redis_client.REFUSED) | {
        f"{first} {second}" for first, seconds in redis_client.REFUSED_SECOND.items() for second in seconds
    }
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
