"""One Lua VM: built, closed off, filled with the prelude and one app, and driven by four verbs.

The only file that imports lupa. Only the Lua greenlet may call the verbs of a serving VM. Across the border go numbers,
booleans, bytes and tables made for the purpose, and the permanent callables of ``host``; never a Python object per request.
Uses errors, routes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import greenlua
from greenlua.errors import REASONS, ConfigurationError
from greenlua.routes import JobRule, Route

MODULES = {"5.4": "lupa.lua54", "5.5": "lupa.lua55", "5.3": "lupa.lua53", "luajit": "lupa.luajit21"}

# Each file may use those before it.
PRELUDE = (
    "errors",
    "luajit",
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
    "routes",
    "sandbox",
)

PIECE_MAX = 4000  # values in one call: LuaJIT's stack holds 8,000

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
        host: the permanent callables (``fetch``, ``fetch_header``, ``now``); they never raise and never switch greenlets.
        dev: whether failures are shown to the client.
        tasks: how many spawned tasks there may be.
        exposed: names of the functions that Lua may perform, as globals: ``users.find``.
        clients: names of the clients that there are.
        open_client: gives a client's Lua half and its direct callables, by name; raises ConfigurationError.

    Attributes:
        start, take, cancel, recover: verbs of lua/engine.lua, as Lua functions. PERF: called without a wrapper.
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
    ) -> None:
        runtime_class = import_module(MODULES[lua]).LuaRuntime
        self._runtime = runtime_class(
            encoding=None,
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_handlers=(_deny, _deny),
        )
        table = self._runtime.table_from(
            {
                b"dev": dev,
                b"tasks": tasks,
                b"exposed": self._runtime.table_from([name.encode() for name in exposed]),
                b"clients": self._runtime.table_from([name.encode() for name in clients]),
                b"open_client": self._open_client,
                b"version": greenlua.__version__.encode(),
                b"utf8_fault": _utf8_fault,
                b"getenv": _getenv,
                b"read_module": self._read_module,
                b"reasons": self._runtime.table_from({code: text.encode() for code, text in REASONS.items()}),
            }
        )
        for name, function in host.items():
            table[name.encode()] = function
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
        self.recover = engine[b"recover"]
        self._engine_statistics = engine[b"statistics"]
        self._describe_job = prelude[b"background"][b"describe"]
        self._describe = prelude[b"routes"][b"describe"]
        self._load_app = prelude[b"sandbox"][b"load_app"]
        self.title = self.version = ""

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
        answer = self._load_app(_plain_source(source), path.name.encode(), globals_rule.encode())
        if answer[0] is None:
            _, message, traceback = answer
            text: str = message.decode(errors="replace")
            if traceback:
                text += "\n" + traceback.decode(errors="replace")
            raise ConfigurationError(text)
        count, title, version = answer
        self.title, self.version = title.decode(errors="replace"), version.decode(errors="replace")
        return [self._declared(number) for number in range(1, count + 1)]

    def _declared(self, number: int) -> Route:
        *texts, stream_body = self._describe(number)
        methods, template, place, handler_place = (part.decode(errors="replace") for part in texts)
        return Route(number, tuple(methods.split()), template, place, handler_place, stream_body)

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

    def resume(self, number: int, ok: bool, shape: bytes, scalars: Sequence[Any]) -> Any:
        """Goes on with the coroutine that waits for an operation; gives what ``start`` gives."""
        if len(scalars) <= PIECE_MAX:
            return self._resume(number, ok, shape, *scalars)
        for at in range(0, len(scalars), PIECE_MAX):
            self._feed(*scalars[at : at + PIECE_MAX])
        return self._resume(number, ok, shape)

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

    def _read_module(self, name: bytes) -> tuple[bytes | None, bytes]:
        """The source of a module under the app's folder and its name for messages, or None and why not."""
        assert self._folder is not None
        text = name.decode(errors="replace")
        parts = text.split(".")
        if parts[0] == "greenlua":
            return None, f"there is no module {text!r} in greenlua".encode()
        if not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
            return None, f"{text!r} is no module name: names of letters, digits, _ and - joined by dots".encode()
        tried = []
        for tail in (".lua", "/init.lua"):
            relative = "/".join(parts) + tail
            path = self._folder / relative
            tried.append(relative)
            try:
                real = path.resolve(strict=True)
                if not real.is_relative_to(self._folder):
                    return None, f"{relative} leads out of the app's folder".encode()
                return _plain_source(real.read_bytes()), relative.encode()
            except (OSError, RuntimeError):  # RuntimeError: links that go round
                continue
        return None, f"there is no module {text!r}: no {' and no '.join(tried)} in the app's folder".encode()

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
        chunk = self._runtime.compile(source, name=b"=[greenlua] clients/" + name + b".lua")
        return chunk, self._runtime.table_from({key.encode(): _safe(call) for key, call in callables.items()})

    def statistics(self) -> dict[str, int]:
        """``memory`` of the VM in bytes; ``parked`` operations, ``idle`` coroutines; ``operations`` since the start; spawned
        ``tasks``. Enters Lua."""
        memory, parked, idle, operations, tasks = self._engine_statistics()
        return {"memory": memory, "parked": parked, "idle": idle, "operations": operations, "tasks": tasks}


def _safe(call: Callable[..., Any]) -> Callable[..., Any]:
    """A permanent callable never raises: it gives nil and a sentence."""

    def safe(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            return None, str(error).encode(errors="replace")

    return safe


def _plain_source(source: bytes) -> bytes:
    """Without what Lua's own program skips too: a byte order mark, and a first line that names an interpreter."""
    source = source.removeprefix(b"\xef\xbb\xbf")
    return b"--" + source if source.startswith(b"#!") else source


def _utf8_fault(text: bytes) -> int | None:
    """The position, from 1, of the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start + 1
    return None


def _getenv(name: bytes) -> bytes | None:
    return os.environb.get(name) if b"=" not in name and b"\0" not in name else None
