"""One Lua VM: built, closed off, filled with the prelude and one app, and driven by four verbs.

The only file that imports lupa. Only the Lua greenlet may call the verbs of a serving VM. Across the border go numbers,
booleans, bytes and tables made for the purpose, and the permanent callables of ``host``; never a Python object per request.
Uses errors, routes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import greenlua
from greenlua.errors import REASONS, ConfigurationError
from greenlua.routes import Route

MODULES = {"5.4": "lupa.lua54", "5.5": "lupa.lua55", "5.3": "lupa.lua53", "luajit": "lupa.luajit21"}

# Each file may use those before it.
PRELUDE = (
    "errors",
    "luajit",
    "values",
    "json_encode",
    "json_decode",
    "response",
    "context",
    "engine",
    "coroutines",
    "routes",
    "sandbox",
)

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

    Attributes:
        start, resume, take, cancel: the verbs of lua/engine.lua, as Lua functions. PERF: called without a wrapper.
    """

    def __init__(self, lua: str, host: dict[str, Callable[..., Any]], dev: bool = False) -> None:
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
        prelude = self._runtime.execute(OPEN)
        for name in PRELUDE:
            source = resources.files("greenlua").joinpath("lua", f"{name}.lua").read_bytes()
            chunk = self._runtime.compile(source, name=f"=[greenlua] {name}.lua".encode())
            prelude[name.encode()] = chunk(prelude, table)
        self._runtime.globals()[b"math"][b"randomseed"](int.from_bytes(os.urandom(4), "big"))
        self._runtime.execute(SHUT)
        engine = prelude[b"engine"]
        self.start = engine[b"start"]
        self.resume = engine[b"resume"]
        self.take = engine[b"take"]
        self.cancel = engine[b"cancel"]
        self._engine_statistics = engine[b"statistics"]
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
        methods, template, place, handler_place = (part.decode(errors="replace") for part in self._describe(number))
        return Route(number, tuple(methods.split()), template, place, handler_place)

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

    def statistics(self) -> dict[str, int]:
        """``memory`` of the VM in bytes; ``parked`` and ``idle`` coroutines; ``operations`` since the start. Enters Lua."""
        memory, parked, idle, operations = self._engine_statistics()
        return {"memory": memory, "parked": parked, "idle": idle, "operations": operations}


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
