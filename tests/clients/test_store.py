"""greenlua.store: one table of promises for both backends on every Lua; then time, locks, memory and Redis."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenlua.app import create_app
from greenlua.clients.store import Client
from greenlua.clients.store_memory import Memory, StoreError, StoreFull, joined
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings
from greenlua.testing import client
from greenlua.vm import MODULES
from tests.clients.redis_server import CuttingServer, RedisServer, running_redis
from tests.clients.running_lua import LuaProcess, Promise, promises, running_lua, wait_until

HEAD = 'store = require "greenlua.store"'
BOTH = HEAD + '\nredis = require "greenlua.redis"'
EMPTY = "for _, key in ipairs(store.keys()) do store.delete(key) end\n"
BACKENDS = ("memory", "redis")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=[(backend, lua) for backend in BACKENDS for lua in MODULES], ids="-".join)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    """An app with the store, on each backend and each Lua."""
    backend, lua = request.param
    options = {"lua": lua, "request_timeout": 30}
    if backend == "redis":
        server = request.getfixturevalue("redis_server")
        assert server.command("FLUSHALL") == b"+OK\r\n"
        options["store_url"] = server.url
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, **options) as process:
        yield process


@pytest.fixture(scope="module", params=BACKENDS)
def short(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    """The same with little time for a request."""
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else ""
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, request_timeout=1, store_url=url) as process:
        yield process


# ------------------------------------------------------------ the table


@pytest.mark.parametrize("promise", promises("store_promises.lua"), ids=str)
def test_promise(store: LuaProcess, promise: Promise) -> None:
    values, kind, text = store.outcome(EMPTY + promise.source)
    if promise.error is None:
        assert values == promise.values, text
        return
    assert values is None
    assert (kind, promise.text in text) == (promise.error or None, True), text
    assert re.search(r"\btest\.lua:\d+: ", text), "an error names the place of user code"


INTEGERS = """
store.set("a", math.maxinteger - 1)
local last = store.incr("a")
local ok, why = pcall(store.incr, "a")
store.set("b", math.mininteger)
local below = select(2, pcall(store.incr, "b", -1))
return last == math.maxinteger, why.type, tostring(why), store.get("a") == math.maxinteger, below.type,
  store.incr("c", math.mininteger) == math.mininteger
"""


@pytest.mark.parametrize("store", [(backend, "5.4") for backend in BACKENDS], indirect=True, ids="-".join)
def test_integers_of_64_bits_are_exact_and_never_wrap(store: LuaProcess) -> None:
    last, kind, text, unchanged, below, smallest = store.run(EMPTY + INTEGERS)
    assert (last, kind, unchanged, below, smallest) == (True, "StoreError", True, "StoreError", True)
    assert "the value of 'a' would not fit into 64 bits" in text


# ------------------------------------------------------------ time


def test_a_key_is_gone_when_its_time_is_over(store: LuaProcess) -> None:
    store.run(EMPTY + 'store.set("a", 1, 0.2) store.push("q", 1) store.expire("q", 0.2) store.set("stays", 1)')
    wait_until(lambda: store.run("return store.keys()") == [["stays"]], "both keys expire")
    assert store.run('return store.get("a"), store.length("q"), store.ttl("a")') == [None, 0, None, "no key"]
    assert store.run('return store.add("a", 2), store.incr("q"), store.ttl("q")') == [True, 1, None, "no ttl"]


def test_once_runs_again_when_its_time_is_over(store: LuaProcess) -> None:
    source = 'return (store.once("again", 0.3, function() end))'
    assert store.run(source) == [True]
    assert wait_until(lambda: store.run(source) == [True], "the mark expires")


# ------------------------------------------------------------ several at once

COUNTING = """
local function count()
  for _ = 1, 5 do
    assert(store.lock("counter", 30, function()
      local n = store.get("n") or 0
      sleep(0.001)
      store.set("n", n + 1)
      return true
    end))
  end
end
count()
"""


def test_a_lock_lets_in_one_at_a_time(store: LuaProcess) -> None:
    store.run(EMPTY)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store.run, [COUNTING] * 8))
    assert store.run('return store.get("n")') == [40]


def test_many_increments_at_once_are_all_counted(store: LuaProcess) -> None:
    store.run(EMPTY)
    with ThreadPoolExecutor(8) as threads:
        seen = threads.map(store.run, ['local l = {} for i = 1, 25 do l[i] = store.incr("n") end return l'] * 8)
    assert sorted(number for (numbers,) in seen for number in numbers) == list(range(1, 201))


def test_a_lock_is_released_when_its_request_is_given_up(short: LuaProcess) -> None:
    status, _ = short.ask('store.lock("held", 600, function() store.set("inside", 1) sleep(60) end)')
    assert status == 504
    assert short.run('return store.get("inside")') == [1]
    free = 'return store.lock("held", 600, function() return "free" end, { wait = 0 })'
    wait_until(lambda: short.run(free) == ["free"], "the lock is released")


def test_who_waits_for_a_lock_can_be_given_up_and_leaves_nothing_behind(short: LuaProcess) -> None:
    with ThreadPoolExecutor(1) as thread:
        holder = thread.submit(short.ask, 'store.lock("busy", 600, function() store.set("busy", 1) sleep(0.5) end)')
        wait_until(lambda: short.run('return store.get("busy")') == [1], "the lock is held")
        source = """
        return (pcall(timeout, 0.1, function()
          store.lock("busy", 600, function() store.set("never", 1) end)
        end))
        """
        assert short.run(source) == [False]
        holder.result()
    assert short.run('return store.lock("busy", 1, function() return store.get("never") end)') == [None]


def test_once_may_be_tried_again_when_its_request_was_given_up(short: LuaProcess) -> None:
    assert short.ask('store.once("given up", 600, function() sleep(60) end)')[0] == 504
    wait_until(lambda: short.run('return (store.once("given up", 600, function() end))') == [True], "the mark goes")


def test_a_lock_that_was_too_short_is_in_the_log(store: LuaProcess) -> None:
    store.run('store.lock("brief", 0.01, function() sleep(0.1) end)')
    wait_until(
        lambda: "the lock brief had ended before its function did: give it more seconds" in store.server.log,
        "the log line",
    )


# ------------------------------------------------------------ a model

NAMES = st.sampled_from(["a", "b", "ab"])
VALUES = st.one_of(st.integers(-3, 3), st.text(max_size=3), st.booleans(), st.lists(st.integers(0, 2), max_size=2))
TTLS = st.sampled_from([None, 1000])
CALLS = st.one_of(
    st.tuples(st.sampled_from(["set", "add", "replace"]), NAMES, VALUES, TTLS),
    st.tuples(st.sampled_from(["get", "delete", "ttl", "pop", "length"]), NAMES),
    st.tuples(st.just("incr"), NAMES, st.integers(-5, 5), TTLS),
    st.tuples(st.just("expire"), NAMES, st.just(1000)),
    st.tuples(st.just("push"), NAMES, VALUES, st.sampled_from([None, 1, 2, 3])),
    st.tuples(st.just("keys"), st.sampled_from(["", "a", "b", "c"]), st.integers(1, 3)),
)

STEPS = """
local answers = json.array {}
for i, step in ipairs(json.decode(%s)) do
  local arguments = {}
  for j = 2, #step do if step[j] ~= json.null then arguments[j - 1] = step[j] end end
  local unpack = table.unpack or unpack
  local ok, value, why = pcall(store[step[1]], unpack(arguments, 1, #step - 1))
  if not ok then value = "raised " .. value.type end
  if step[1] == "ttl" then value = why or "some" end
  answers[i] = value == nil and json.null or value
end
return answers
"""


class Model:
    """What the store promises, as plainly as can be. No time passes in it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # a list of the store: a Queue
        self.times: set[str] = set()

    def perform(self, name: str, key: str, *rest: Any) -> Any:
        return getattr(self, name)(key, *rest)

    def set(self, key: str, value: Any, ttl: Any) -> None:
        self.values[key] = value
        (self.times.discard if ttl is None else self.times.add)(key)

    def add(self, key: str, value: Any, ttl: Any) -> bool:
        absent = key not in self.values
        if absent:
            self.set(key, value, ttl)
        return absent

    def replace(self, key: str, value: Any, ttl: Any) -> bool:
        present = key in self.values
        if present:
            self.set(key, value, ttl)
        return present

    def get(self, key: str) -> Any:
        value = self.values.get(key)
        return "raised StoreError" if isinstance(value, Queue) else value

    def incr(self, key: str, by: int, ttl: Any) -> Any:
        value = self.values.get(key, 0)
        if type(value) is not int:
            return "raised StoreError"
        if key not in self.values:
            self.set(key, 0, ttl)
        self.values[key] = value + by
        return value + by

    def delete(self, key: str) -> bool:
        self.times.discard(key)
        return self.values.pop(key, self) is not self

    def ttl(self, key: str) -> str:
        return "no key" if key not in self.values else "some" if key in self.times else "no ttl"

    def expire(self, key: str, ttl: Any) -> bool:
        if key in self.values:
            self.times.add(key)
        return key in self.values

    def push(self, key: str, value: Any, most: Any) -> Any:
        queue = self.values.get(key, Queue())
        if not isinstance(queue, Queue):
            return "raised StoreError"
        self.values[key] = queue
        queue.append(value)
        if most is not None:
            del queue[:-most]
        return len(queue)

    def pop(self, key: str) -> Any:
        queue = self.values.get(key, Queue())
        if not isinstance(queue, Queue):
            return "raised StoreError"
        value = queue.pop(0) if queue else None
        if not queue:
            self.delete(key)
        return value

    def length(self, key: str) -> Any:
        queue = self.values.get(key, Queue())
        return len(queue) if isinstance(queue, Queue) else "raised StoreError"

    def keys(self, prefix: str, limit: int) -> list[str]:
        return sorted(key for key in self.values if key.startswith(prefix))[:limit]


class Queue(list[Any]):
    pass


@pytest.mark.parametrize("store", [(backend, "5.4") for backend in BACKENDS], indirect=True, ids="-".join)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(CALLS, min_size=1, max_size=25))
def test_any_sequence_of_calls_does_what_the_model_does(store: LuaProcess, steps: list[Any]) -> None:
    model = Model()
    expected = [model.perform(*step) for step in steps]
    text = json.dumps(steps)
    (got,) = store.run(EMPTY + STEPS % f"[==[{text}]==]")
    assert got == expected


# ------------------------------------------------------------ in memory


def test_a_full_store_says_so_and_loses_nothing(tmp_path: Path) -> None:
    source = """
    local n = 0
    local ok, failure
    repeat
      ok, failure = pcall(store.set, "k" .. n, ("x"):rep(1000))
      if ok then n = n + 1 end
    until not ok
    local all = #store.keys() == n
    for i = 0, n - 1 do all = all and #store.get("k" .. i) == 1000 end
    store.delete("k0")
    return n, failure.type, tostring(failure), all, (pcall(store.set, "again", ("x"):rep(1000)))
    """
    with running_lua(tmp_path, HEAD, store_memory=50_000) as store:
        count, kind, text, all_there, again = store.run(source)
    assert (kind, all_there, again) == ("StoreFull", True, True)
    assert 30 <= count <= 50
    assert "has no room for" in text
    assert "store_memory" in text


def test_memory_works_while_the_app_loads(tmp_path: Path) -> None:
    head = HEAD + '\nstore.set("a", 1) store.incr("a") store.lock("l", 1, function() store.push("q", 1) end)'
    with running_lua(tmp_path, head) as store:
        assert store.run('return store.get("a"), store.length("q")') == [2, 1]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_has_expired_makes_room() -> None:
    clock = Clock()
    memory = Memory(100_000, clock)
    for number in range(1000):
        try:
            memory.set(b"key:%d" % number, b"x" * 1000, 500)
        except StoreFull:
            break
    assert 50 < number < 100
    clock.now += 0.4
    with pytest.raises(StoreFull):
        memory.set(b"key:new", b"x" * 1000, 0)
    clock.now += 0.1
    memory.set(b"key:new", b"x" * 90_000, 0)
    assert memory.keys(b"key:", 10) == joined([b"key:new"])


def test_a_failed_call_changes_nothing_in_memory() -> None:
    memory = Memory(4000)
    memory.set(b"key:a", b"small", 0)
    memory.push(b"key:q", b"1", 0)
    before = memory.size
    too_much: list[Callable[[], object]] = [
        lambda: memory.set(b"key:a", b"x" * 5000, 0),
        lambda: memory.set(b"key:b", b"x" * 5000, 5),
        lambda: memory.push(b"key:q", b"x" * 5000, 1),
        lambda: memory.push(b"key:new", b"x" * 5000, 0),
    ]
    for call in too_much:
        with pytest.raises(StoreFull):
            call()
    with pytest.raises(StoreError):
        memory.incr(b"key:a", 1, 0)
    assert (memory.get(b"key:a"), memory.get(b"key:b"), memory.length(b"key:q"), memory.size) == (
        b"small",
        None,
        1,
        before,
    )
    assert memory.keys(b"", 10) == joined([b"key:a", b"key:q"])


@settings(max_examples=200, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(["set", "add", "replace", "incr", "delete", "push", "pop", "expire", "wait"]),
            st.sampled_from([b"a", b"b", b"c"]),
            st.integers(0, 60),
        ),
        max_size=60,
    )
)
def test_memory_counts_exactly_what_it_holds(calls: list[tuple[str, bytes, int]]) -> None:
    clock = Clock()
    memory = Memory(2500, clock)
    for name, key, number in calls:
        try:
            if name == "wait":
                clock.now += number / 100
            elif name in ("delete", "pop"):
                getattr(memory, name)(key)
            elif name == "expire":
                memory.expire(key, number + 1)
            elif name == "incr":
                memory.incr(key, number, number * 10)
            elif name == "push":
                memory.push(key, b"x" * number, number % 4)
            else:
                getattr(memory, name)(key, b"x" * number, number * 10)
        except (StoreFull, StoreError):
            pass
        assert memory.size == sum(size_of(key, entry.value) for key, entry in memory._entries.items()) <= 2500
    for key in (b"a", b"b", b"c"):
        memory.delete(key)
    assert memory.size == 0


def size_of(key: bytes, value: bytes | deque[bytes]) -> int:
    """As docs/store.md says."""
    if isinstance(value, bytes):
        return 320 + len(key) + len(value)
    return 320 + 800 + len(key) + sum(48 + len(item) for item in value)


def test_old_times_to_live_do_not_pile_up() -> None:
    memory = Memory(10_000)
    for _ in range(10_000):
        memory.set(b"key:a", b"1", 60_000)
    assert len(memory._expiries) <= 2 * len(memory._entries) + 65


def test_a_direct_call_takes_microseconds() -> None:
    client = Client(Settings(), Path())
    get, put = client.callables["get"], client.callables["set"]
    put(b"key:a", b"1", 0)
    rounds = 20_000
    best = min(_seconds(lambda: [get(b"key:a") for _ in range(rounds)]) for _ in range(5))
    assert best / rounds < 20e-6, "1 us was measured on a busy machine"


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_app_in_this_process_can_be_tested(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("redis_server").url if backend == "redis" else ""
    (tmp_path / "app.lua").write_text(
        HEAD
        + """
        local app = greenlua.app {}
        app:get("/", function()
          return { n = store.incr("in process"), held = store.lock("in process", 5, function() return 1 end) }
        end)
        return app
        """
    )
    app = create_app(tmp_path / "app.lua", store_url=url)
    app.start()
    try:
        assert [client(app).get("/").json for _ in range(2)] == [{"n": 1, "held": 1}, {"n": 2, "held": 1}]
    finally:
        app.stop(1)


# ------------------------------------------------------------ for the core


@pytest.mark.parametrize("backend", BACKENDS)
def test_add_for_is_true_once_until_its_time_is_over(backend: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("redis_server").url if backend == "redis" else ""
    with ExitStack() as stack:
        first = Client(Settings(store_url=url), Path())
        second = Client(Settings(store_url=url), Path()) if url else first
        for client in {first, second}:
            stack.callback(client.close)
        assert (first.shared, second.shared) == (bool(url), bool(url))
        assert first.add_for("timer", 0.3) is True
        assert second.add_for("timer", 0.3) is False
        assert second.add_for("other", 60) is True
        wait_until(lambda: second.add_for("timer", 60), "the mark expires")
        assert first.add_for("timer", 60) is False


def test_a_url_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="store_url: Redis URL must specify"):
        Client(Settings(store_url="http://localhost"), Path())


# ------------------------------------------------------------ on Redis


def test_processes_share_what_redis_holds_under_our_prefix(redis_server: RedisServer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        one, two = (
            stack.enter_context(running_lua(folder, BOTH, store_url=redis_server.url, redis_url=redis_server.url))
            for folder in folders
        )  # fmt: skip
        one.run(EMPTY + 'store.set("visits", { 1 }) store.push("queue", "x")')
        assert two.run('return store.get("visits"), store.pop("queue")') == [[1], "x"]
        assert two.run('return redis.get("greenlua:key:visits")') == ["[1]"]
        source = 'return store.lock("between", 60, function() store.set("in", 1) sleep(1) return "one" end)'
        with ThreadPoolExecutor(1) as thread:
            holder = thread.submit(one.run, source)
            wait_until(lambda: two.run('return store.get("in")') == [1], "the lock is held")
            assert two.run('return store.lock("between", 60, function() end, { wait = 0 })') == [None, "locked"]
            assert two.run('return store.lock("between", 60, function() return "two" end)') == ["two"]
            assert holder.result() == ["one"]


def test_the_store_goes_on_after_redis_came_back(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with (
        running_redis(tmp_path / "redis") as server,
        running_lua(tmp_path, HEAD, store_url=server.url, redis_timeout=2) as store,
    ):
        assert store.run('return store.incr("n"), store.push("q", 1, 5)') == [1, 1]
        server.stop()
        for source in ('store.incr("n")', 'store.lock("l", 1, error)', 'store.once("o", 1, error)'):
            assert store.outcome(source).type == "ConnectionError"
        server.start()
        assert store.run('return store.incr("n"), store.push("q", 1, 5)') == [1, 1], (
            "its scripts are new to this server"
        )


def test_a_call_that_was_cut_off_is_not_sent_again() -> None:
    with CuttingServer(b"EVALSHA") as server:
        client = Client(Settings(store_url=server.url), Path())
        with pytest.raises(Exception, match="Connection closed by server") as caught:
            client.operations["incr"]("key:n", 1, 0)
        client.close()
    assert type(caught.value).__name__ == "ConnectionError"
    assert server.seen == 1


def test_a_full_redis_is_a_full_store(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with (
        running_redis(tmp_path / "redis", "--maxmemory", "2mb", "--maxmemory-policy", "noeviction") as server,
        running_lua(tmp_path, HEAD, store_url=server.url) as store,
    ):
        values, kind, text = store.outcome('for i = 1, 10000 do store.set("k" .. i, ("x"):rep(1000)) end')
        assert (values, kind) == (None, "StoreFull"), text
        assert store.outcome('store.push("q", 1, 5)').type == "StoreFull"
        assert store.outcome('store.incr("q")').type == "StoreFull"


def test_more_keys_than_one_scan_are_found(redis_server: RedisServer) -> None:
    client = Client(Settings(store_url=redis_server.url), Path())
    try:
        for number in range(2500):
            client.operations["set"](f"key:many:{number:04}", "1", 0)
        assert client.operations["keys"]("key:many:", 7) == joined(f"key:many:{n:04}".encode() for n in range(7))
        assert client.operations["keys"]("key:many:", 10000).count(b"key:many:") == 2500
    finally:
        client.close()


def test_what_others_wrote_is_an_error_and_no_value(redis_server: RedisServer, tmp_path: Path) -> None:
    with running_lua(tmp_path, BOTH, store_url=redis_server.url, redis_url=redis_server.url) as store:
        store.run('redis.set("greenlua:key:foreign", "{no json")')
        values, kind, text = store.outcome('return store.get("foreign")')
        assert (values, kind) == (None, "StoreError")
        assert 'what "foreign" holds is no JSON' in text
