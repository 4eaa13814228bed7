"""Single parts of greenlua, in process, by pyperf: python -m loadtests.micro [-o FILE.json] [--fast] [-b NAME...]

Compare two versions with `python -m pyperf compare_to OLD.json NEW.json`. Uses channels; greenlua; pyperf.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pyperf
from gevent.event import AsyncResult

from greenlua.channel import Channel
from greenlua.fields import Fields, now
from greenlua.messages import Call, Reply
from greenlua.results import Bell, Result
from greenlua.router import Router, compile_routes
from greenlua.routes import RouteTable
from greenlua.slots import SlotPool
from greenlua.vm import VM

APP = """
local app = greenlua.app {}
local function make(i)
  return { id = i, name = "object " .. i, price = i + 0.5, tags = { "red", "round" }, stock = true }
end
app:get("/text", function() return "Hello" end)
app:get("/object", function() return make(1) end)
app:get("/objects", function()
  local list = {}
  for i = 1, 100 do list[i] = make(i) end
  return list
end)
app:get("/headers", function(ctx) return ctx.headers.host .. ctx.headers.accept end)
for i = 1, 1000 do app:get("/fixed/" .. i, function() end) end
for i = 1, 100 do app:get("/field/" .. i .. "/{id:int}", function() end) end
return app
"""
LUAS = ("5.4", "luajit")
WAITERS = 32


def nothing(*_: Any) -> None:
    """Nobody is to be woken, nothing was abandoned."""


class Pieces:
    """A VM with the app, driven without a server. The benchmark is the one greenlet that enters it."""

    def __init__(self, lua: str) -> None:
        self.pool = SlotPool(4, 30.0, nothing, nothing)
        fields = Fields(self.pool.slots)
        self.vm = VM(lua, {"fetch": fields.fetch, "fetch_header": fields.fetch_header, "now": now})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "app.lua"
            path.write_text(APP)
            self.table = RouteTable(self.vm.load(path))
        self.numbers = {route.template: route.number for route in self.table.routes}

    def entered(self, template: str) -> Callable[[], None]:
        """One run of a handler: into Lua and back."""
        slot, number, start = self.pool.slots[0], self.numbers[template], self.vm.start
        environ = {"HTTP_HOST": "localhost", "HTTP_ACCEPT": "*/*", "REQUEST_METHOD": "GET", "PATH_INFO": template}
        slot.call = Call(slot, number, environ, (), b"")
        answer = start(slot.index, slot.generation, number)
        assert answer[0] == 200, answer
        return lambda: start(slot.index, slot.generation, number)

    def routed(self, path: str) -> Callable[[], Any]:
        router = Router()
        router.use(compile_routes(self.table, lambda methods: _Resource()))
        found = router.find(path)
        assert found is not None, path
        return lambda: router.find(path)


class _Resource:
    def on_get(self, req: Any, resp: Any, **params: Any) -> None:
        """For the router."""

    def hold(self, environ: dict[str, Any]) -> None:
        """For the router."""


def slot_there_and_back() -> Callable[[], None]:
    """take, fill, wait, reset; the answer is there before anybody waits for it."""
    pool = SlotPool(64, 30.0, nothing, nothing)
    reply = Reply(200, 1, b"{}")

    def run() -> None:
        slot = pool.take(1.0)
        pool.fill(slot, slot.generation, reply)
        pool.wait(slot)
        pool.recycle()

    return run


def channel_batch(size: int = 32) -> Callable[[], None]:
    """So many Calls put and drained in one batch."""
    channel = Channel(1024)
    slot = SlotPool(1, 30.0, nothing, nothing).slots[0]
    call = Call(slot, 1, {}, (), b"")

    def run() -> None:
        for _ in range(size):
            channel.put(call, 1.0)
        channel.drain(size)

    return run


def handed_over(make: Callable[[], Any], renew: Callable[[Any], Any]) -> Callable[[], None]:
    """32 greenlets that wait for a result each, again and again, and one that sets all of them."""
    results = [make() for _ in range(WAITERS)]
    came = 0

    def wait(at: int) -> None:
        nonlocal came
        while True:
            results[at].get()
            results[at] = renew(results[at])
            came += 1

    def run() -> None:
        nonlocal came
        came = 0
        for result in list(results):
            result.set(1)
        while came < WAITERS:
            gevent.sleep(0)

    for at in range(WAITERS):
        gevent.spawn(wait, at)
    gevent.sleep(0)
    return run


def again(result: Result) -> Result:
    result.reset()
    return result


def main() -> None:
    def pass_on(command: list[str], options: Any) -> None:
        if options.benchmarks:
            command += ["--benchmarks", *options.benchmarks]

    runner = pyperf.Runner(program_args=("-m", "loadtests.micro"), add_cmdline_args=pass_on)
    runner.argparser.add_argument("-b", "--benchmarks", nargs="*", help="only those whose names begin so")
    wanted = runner.parse_args().benchmarks

    def bench(name: str, make: Callable[[], Callable[[], Any]], per: int = 1) -> None:
        if not wanted or any(name.startswith(prefix) for prefix in wanted):
            runner.bench_func(name, make(), inner_loops=per)

    bench("slots: there and back", slot_there_and_back)
    bell = Bell()
    bench("results: a Result, used again", lambda: handed_over(lambda: Result(bell), again), WAITERS)
    bench("results: a new AsyncResult each time", lambda: handed_over(AsyncResult, lambda _: AsyncResult()), WAITERS)
    bench("channel: a Call in a batch of 32", channel_batch, 32)
    for lua in LUAS:
        pieces: list[Pieces] = []

        def of(method: str, argument: str, lua: str = lua, pieces: list[Pieces] = pieces) -> Callable[[], Any]:
            if not pieces:
                pieces.append(Pieces(lua))
            return getattr(pieces[0], method)(argument)

        bench(f"border, {lua}: a handler that gives a text", lambda of=of: of("entered", "/text"))
        bench(f"border, {lua}: one that reads 2 headers", lambda of=of: of("entered", "/headers"))
        bench(f"JSON out, {lua}: 1 object", lambda of=of: of("entered", "/object"))
        bench(f"JSON out, {lua}: 100 objects", lambda of=of: of("entered", "/objects"))
        if lua == "5.4":
            bench("routing: one of 1,000 fixed paths", lambda of=of: of("routed", "/fixed/999"))
            bench("routing: the first of 100 templates", lambda of=of: of("routed", "/field/1/5"))
            bench("routing: the last of 100 templates", lambda of=of: of("routed", "/field/100/5"))
    objects = [
        {"id": i, "name": f"object {i}", "price": i + 0.5, "tags": ["red", "round"], "stock": True} for i in range(100)
    ]
    bench("JSON out: 100 objects by msgspec, for comparison", lambda: lambda: msgspec.json.encode(objects))


if __name__ == "__main__":
    main()
