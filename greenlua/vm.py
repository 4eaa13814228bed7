"""One Lua VM: built, closed off, filled with the prelude and one app, and driven by four verbs.

The only file that imports lupa. Only the Lua greenlet may call the verbs of a serving VM. Across the border go numbers,
booleans, bytes and tables made for the purpose, and the permanent callables of ``host``; never a Python object per request.
Uses errors, meter, routes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import msgspec

import greenlua
from greenlua.errors import REASONS, ConfigurationError
from greenlua.meter import Meter
from greenlua.modules import plain_source, read_module
from greenlua.routes import JobRule, Route

MODULES = {"5.4": "lupa.lua54", "5.5": "lupa.lua55", "5.3": "lupa.lua53", "luajit": "lupa.luajit21"}

# Each file may use those before it.
PRELUDE = (
    "errors",
    "limits",
    "luajit",
    "calls",
    "patterns",
    "matcher",
    "search",
    "bounded_tables",
    "bounded",
    "values",
    "marshal",
    "json_encode",
    "json_decode",
    "response",
    "failures",
    "unseen",
    "outbox",
    "pool",
    "context",
    "engine",
    "operations",
    "tasks",
    "streams",
    "background",
    "coroutines",
    "options",
    "documents",
    "schemas",
    "contract",
    "responses",
    "inline",
    "static",
    "routes",
    "sandbox",
)

PIECE_MAX = 4000  # values in one call: LuaJIT's stack holds 8,000

# Lua aborts the whole process when what Python pushes does not fit, so there must be room before. PUSH_MARGIN covers a request's
# template fields and Lua's own stack, VALUE_SIZE a string's header or a number.
PUSH_MARGIN = 1 << 20
CALLABLE_MARGIN = 1 << 16
VALUE_SIZE = 64
LUAJIT_MARGIN = 4  # times the limit at which LuaJIT's allocations fail
RESERVE = 1 << 20  # past the limit, for what gives memory back
LOADING = 10  # times the limit that handlers have, for an app that loads

# debug.getmetatable sees through __metatable, which the sandbox uses to keep user code from shared metatables.
OPEN = b"return { getmetatable = debug.getmetatable }"
# The rest of the prelude has what it needs in locals by then.
SHUT = b"python, debug, io, package, require, dofile, loadfile, collectgarbage, ffi, jit = nil"


def _deny(*_: object) -> Any:
    raise AttributeError("Python objects cannot be looked into from Lua")


class VM:
    """A Lua VM with the prelude.

    Args:
        lua: one of ``MODULES``.
        host: the permanent callables (``fetch``, ``fetch_header``, ``now``, those of `schemas.Schemas`); they never raise and never
            switch greenlets.
        dev: whether failures are shown to the client.
        tasks: how many spawned tasks there may be.
        exposed: names of the functions that Lua may perform, as globals: ``users.find``.
        clients: names of the clients that there are.
        open_client: gives a client's Lua half and its direct callables, by name; raises ConfigurationError.
        meter: measures how long Lua computes; None: as long as it likes.
        memory_limit: bytes that Lua may hold; 0: as many as there are.
        sandbox: False gives user code all that Lua has.
        unknown_fields: the setting.

    Attributes:
        start, take, cancel: verbs of lua/engine.lua, as Lua functions. PERF: called without a wrapper.
        memory_limit, collect_above: bytes; past the second, garbage should be collected before a request is started.
        used: gives the bytes that Lua holds, without entering it.
        OutOfMemory: what a verb raises that found no memory.
        facts: what the app says of itself once it is loaded: ``title``, ``version`` and what else it declares, by name.
        integers: the first integer that is too large for this Lua.
    """

    def __init__(
        self,
        lua: str,
        host: dict[str, Callable[..., Any]],
        dev: bool = False,
        tasks: int = 10000,
        exposed: Iterable[str] = (),
        clients: Sequence[str] = (),
        open_client: Callable[[str], tuple[bytes, dict[str, Callable[..., Any]]]] | None = None,
        meter: Meter | None = None,
        memory_limit: int = 0,
        sandbox: bool = True,
        unknown_fields: str = "refuse",
    ) -> None:
        lupa = import_module(MODULES[lua])
        meter = meter or Meter(0)
        # LuaJIT crashes when an allocation fails in the wrong place; there lua/limits.lua stops who goes too far, long before.
        self._most = memory_limit * LUAJIT_MARGIN if lua == "luajit" and meter.limit else memory_limit
        self.OutOfMemory: type[Exception] = lupa.LuaMemoryError
        self._runtime = lupa.LuaRuntime(
            max_memory=self._most,  # 0: none, but counted
            encoding=None,
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_handlers=(_deny, _deny),
        )
        self.used: Callable[[], int] = self._runtime.get_memory_used
        self._memory_limit = memory_limit or sys.maxsize
        self.memory_limit = memory_limit
        self._shrinks = lua == "luajit"
        # LuaJIT does not look for garbage before it gives up, 5.3 not where it builds a string, and C nowhere for its buffers.
        self.collect_above = self._memory_limit // 2
        self._meter = meter
        table = self._runtime.table_from(
            {
                b"dev": dev,
                b"tasks": tasks,
                b"exposed": self._runtime.table_from([name.encode() for name in exposed]),
                b"clients": self._runtime.table_from([name.encode() for name in clients]),
                b"open_client": self._open_client,
                b"cpu_limit": meter.limit,
                b"loading": LOADING,
                b"memory_limit": memory_limit,
                b"sandbox": sandbox,
                b"unknown_fields": unknown_fields.encode(),
                b"look": meter.look,
                b"saw": meter.saw,
                b"used": lambda: self.used(),  # else what Lua holds would hold Lua
                b"version": greenlua.__version__.encode(),
                b"utf8_fault": _utf8_fault,
                b"getenv": self._fitting(_getenv),
                b"read_module": self._fitting(lambda name: read_module(self._folder, name)),
                b"reasons": self._runtime.table_from({code: text.encode() for code, text in REASONS.items()}),
            }
        )
        for name, function in host.items():
            table[name.encode()] = self._fitting(function)
        self._folder: Path | None = None
        self._clients, self._client_names = open_client, clients
        self.integers = 2**53 if lua == "luajit" else 2**63
        prelude = self._runtime.execute(OPEN)
        for name in PRELUDE:
            source = resources.files("greenlua").joinpath("lua", f"{name}.lua").read_bytes()
            chunk = self._runtime.compile(source, name=f"=[greenlua] {name}.lua".encode())
            prelude[name.encode()] = chunk(prelude, table)
        self._runtime.globals()[b"math"][b"randomseed"](int.from_bytes(os.urandom(4), "big"))
        self._runtime.execute(SHUT)
        engine = prelude[b"engine"]
        self.start = engine[b"start"]
        self._resume = engine[b"resume"]
        self._feed = prelude[b"marshal"][b"feed"]
        self._arguments = engine[b"arguments"]
        self.take = prelude[b"outbox"][b"take"]
        self.cancel = engine[b"cancel"]
        self._recover, self._take = engine[b"recover"], self.take
        self._engine_statistics = engine[b"statistics"]
        self._describe_job = prelude[b"background"][b"describe"]
        self._describe = prelude[b"routes"][b"describe"]
        self._load_app = prelude[b"sandbox"][b"load_app"]
        self.facts: dict[str, Any] = {}

    def load(self, path: Path, globals_rule: str = "allow") -> list[Route]:
        """Loads and runs the app's file; gives its routes in the order of declaration.

        Raises:
            ConfigurationError: the file cannot be read, is not Lua, fails, or declares nothing; names file and line.
        """
        try:
            source = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        self._folder = path.parent.resolve()
        limit, self._meter.limit = self._meter.limit, self._meter.limit * LOADING
        try:
            answer = self._load_app(plain_source(source), path.name.encode(), globals_rule.encode())
        except self.OutOfMemory:
            answer = None, f"{path.name}: not enough memory: {self.memory_limit} bytes (memory_limit)".encode(), b""
        finally:
            self._meter.limit = limit
        if self._meter.interrupted is not None:
            raise self._meter.interrupted
        if answer[0] is None:
            _, message, traceback = answer
            text: str = message.decode(errors="replace")
            if traceback:
                text += "\n" + traceback.decode(errors="replace")
            raise ConfigurationError(text)
        count, facts = answer
        self.facts = msgspec.json.decode(facts)
        return [self._declared(number) for number in range(1, count + 1)]

    def _declared(self, number: int) -> Route:
        *texts, facts = self._describe(number)
        methods, template, place, handler_place = (part.decode(errors="replace") for part in texts)
        return Route(number, tuple(methods.split()), template, place, handler_place, msgspec.json.decode(facts))

    def jobs(self) -> list[JobRule]:
        """The background work that the app declares, in the order of declaration."""
        rules: list[JobRule] = []
        while (found := self._describe_job(len(rules) + 1)) is not None:
            number, kind, name, place, seconds, timeout, once = found
            rules.append(
                JobRule(
                    number,
                    kind.decode(),
                    name.decode(errors="replace"),
                    place.decode(errors="replace"),
                    float(seconds),
                    float(timeout),
                    once,
                )
            )
        return rules

    # ------------------------------------------------------------ verbs

    def collect(self) -> None:
        """Frees all garbage of Lua; some milliseconds for each ten MiB that live."""
        before = self.used()
        self._runtime.gccollect()
        # LuaJIT keeps the buffer in which it builds strings, and gives half of it back each time.
        while self._shrinks and self.used() < 0.9 * before:
            before = self.used()
            self._runtime.gccollect()

    def has_room(self, size: int = 0, margin: int = PUSH_MARGIN) -> bool:
        """Whether ``size`` bytes more can be pushed into the VM; collects its garbage before it says no."""
        most = self._memory_limit - size - margin
        if self.used() <= most:
            return True
        self.collect()
        return self.used() <= most

    def resume(self, number: int, ok: bool, shape: bytes, scalars: Sequence[Any]) -> Any:
        """Goes on with the coroutine that waits for an operation; gives what ``start`` gives."""
        size = _size_of(scalars)
        if not self.has_room(size):
            return self._resume(number, False, size)  # no string: it might be one too many
        if len(scalars) <= PIECE_MAX:
            return self._resume(number, ok, shape, *scalars)
        for at in range(0, len(scalars), PIECE_MAX):
            self._feed(*scalars[at : at + PIECE_MAX])
        return self._resume(number, ok, shape)

    def recover(self, index: int, generation: int) -> None:
        """Ends what a request or a job has in Lua after a verb was left by an exception."""
        self._beyond_limit(self._recover, index, generation)

    def take_when_full(self) -> Any:
        """As ``take``, which would lose events where memory ends in the middle of it."""
        return self._beyond_limit(self._take)

    def _beyond_limit(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        if not self.memory_limit:
            return verb(*arguments)
        self._runtime.set_max_memory(self._most + RESERVE)
        try:
            return verb(*arguments)
        finally:
            self._runtime.set_max_memory(self._most)

    def arguments(self, number: int, shape: bytes) -> list[Any] | None:
        """The scalars of an operation's arguments; None when nobody waits for it any more."""
        if not shape:
            return []
        count = len(shape) if shape.count(b".") == len(shape) else None
        scalars: list[Any] = []
        while True:
            piece = self._arguments(number, len(scalars) + 1, count)
            if piece is False:
                return scalars or None
            if type(piece) is not tuple:  # nothing more
                return scalars
            scalars += piece[1:]
            if len(scalars) == count:
                return scalars

    def _open_client(self, name: bytes) -> tuple[Any, ...]:
        """A client's Lua half as a chunk and a table of its direct callables; nothing when there is none, None and why not."""
        try:
            text = name.decode(errors="replace")
            found = self._clients(text) if self._clients is not None and text in self._client_names else None
        except ConfigurationError as error:
            return None, str(error).encode()
        if found is None:
            return False, b""
        source, callables = found
        callables = {key: self._fitting(_safe(call)) for key, call in callables.items()}
        chunk = self._runtime.compile(source, name=b"=[greenlua] clients/" + name + b".lua")
        return chunk, self._runtime.table_from({key.encode(): call for key, call in callables.items()})

    def statistics(self) -> dict[str, int]:
        """``memory`` of the VM and its ``memory_limit`` in bytes; ``parked`` operations, ``idle`` coroutines; ``operations``
        since the start; spawned ``tasks``. Enters Lua."""
        parked, idle, operations, tasks = self._engine_statistics()
        return {
            "memory": self.used(),
            "memory_limit": self.memory_limit,
            "parked": parked,
            "idle": idle,
            "operations": operations,
            "tasks": tasks,
        }

    def close(self) -> None:
        """Gives Lua's memory back now, and not when Python's garbage collector comes by. Nothing may be called afterwards."""
        self.__dict__.clear()

    def _fitting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A permanent callable whose result is pushed only where there is room; otherwise it gives nil and why."""

        def fitting(*arguments: Any) -> Any:
            result = call(*arguments)
            kind = type(result)
            if kind is not bytes and kind is not tuple:
                return result
            size = len(result) if kind is bytes else _size_of(result)
            if self.used() + size + CALLABLE_MARGIN <= self._memory_limit:  # PERF: the same as below, for nearly all
                return result
            if self.has_room(size, CALLABLE_MARGIN):
                return result
            return (None, b"not enough memory") if self.has_room(0, VALUE_SIZE * 64) else None

        return fitting


def _size_of(values: Sequence[Any]) -> int:
    """Bytes that values take in Lua, roughly."""
    return sum([len(value) for value in values if type(value) is bytes]) + VALUE_SIZE * len(values)


def _safe(call: Callable[..., Any]) -> Callable[..., Any]:
    """A permanent callable never raises: it gives nil and a sentence."""

    def safe(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            return None, str(error).encode(errors="replace")

    return safe


def _utf8_fault(text: bytes) -> int | None:
    """The position, from 1, of the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start + 1
    return None


def _getenv(name: bytes) -> bytes | None:
    return os.environb.get(name) if b"=" not in name and b"\0" not in name else None
