"""Pieces of Lua that tests of clients send to a running app: a real process, which runs them inside a handler."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from greenlua.testing import ServerProcess, serve

# POST /run runs the body as a function; what it returns comes back as a list, and what it raises with type and text.
APP = """
%s
local app = greenlua.app {}
local unpack = table.unpack or unpack

local function pack(ok, ...)
  local n, values = select("#", ...), json.array { ... }
  for i = 1, n do if values[i] == nil then values[i] = json.null end end
  return ok, values, n
end

app:post("/run", function(ctx)
  local run = assert(load(ctx.body, "=test.lua"))
  local ok, values = pack(pcall(run))
  if ok then return { ok = true, values = values } end
  local failure = values[1]
  return { ok = false, type = type(failure) == "table" and failure.type or json.null, text = tostring(failure) }
end)

return app
"""


class Outcome(NamedTuple):
    values: list[Any] | None
    """What was returned; None where something was raised."""
    type: str | None
    """The type of the error that was raised, if it has one."""
    text: str


class LuaProcess:
    """A server of ``APP``."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def ask(self, source: str) -> tuple[int, Any]:
        """The status and JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("POST", "/run", source.encode())
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def outcome(self, source: str) -> Outcome:
        status, answer = self.ask(source)
        assert status == 200, answer
        if answer["ok"]:
            return Outcome(answer["values"], None, "")
        return Outcome(None, answer["type"], answer["text"])

    def run(self, source: str) -> list[Any]:
        """The values that a piece of Lua returns.

        Raises:
            AssertionError: it raised something.
        """
        values, kind, text = self.outcome(source)
        assert values is not None, f"{kind}: {text}"
        return values


class Promise(NamedTuple):
    """A piece of Lua, and what it returns or raises; see the first lines of redis_promises.lua."""

    title: str
    source: str
    values: list[Any] | None
    error: str | None
    """None where nothing is raised; the error's type, "" for a plain sentence."""
    text: str

    def __str__(self) -> str:
        return self.title


def promises(name: str) -> list[Promise]:
    """Those of a file beside this one."""
    _, *pieces = re.split(r"^--- ", (Path(__file__).parent / name).read_text(), flags=re.MULTILINE)
    found = []
    for piece in pieces:
        match = re.fullmatch(r"(.+?)\n(.+\n)--([>!]) (.+)\n", piece.rstrip() + "\n", re.DOTALL)
        assert match is not None, f"{name}: {piece}"
        title, source, mark, end = match.groups()
        if mark == ">":
            found.append(Promise(title, source, json.loads(end), None, ""))
        else:
            kind, _, text = end.partition(": ")
            found.append(Promise(title, source, None, kind.strip("-"), text))
    assert len({promise.title for promise in found}) == len(found), "each title once"
    return found


@contextmanager
def running_lua(folder: Path, head: str, **settings: Any) -> Iterator[LuaProcess]:
    """Runs ``APP`` with ``head`` at the top of its file."""
    path = folder / "app.lua"
    path.write_text(APP % head)
    arguments = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with serve(path, *arguments) as server:
        yield LuaProcess(server)


def wait_until(check: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """What ``check`` gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"in {seconds:g} seconds not: {what}"
        time.sleep(0.02)
    return found
