"""Ways out of a Lua sandbox: the known ones and those that greenlua's own objects might offer, each tried by a handler on every Lua."""

# ruff: noqa: E501 - one way out a line
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua.app import create_app
from greenlua.testing import client

Write = Callable[..., Path]

# Each gives "out" when it got at something that user code must not have.
HEAD = """
local function is_raw(t) return type(t) == "table" and (rawget(t, "io") ~= nil or rawget(t, "debug") ~= nil or rawget(t, "python") ~= nil) end
local function seek(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if is_raw(value) or type(value) == "userdata" then return "out" end
  end
  return "in"
end
"""
ESCAPES = {
    # the real globals
    "getfenv": "return seek(getfenv and getfenv(0), getfenv and getfenv(print), getfenv and getfenv(require))",
    "setfenv": "return setfenv and 'out' or 'in'",
    "an environment of nothing": "local f = load('return _G or _ENV', 'x', 't', {}) return seek(f())",
    "the environment of what is loaded": "return seek(load('return _G')(), load('return _ENV')(), load('return getfenv and getfenv(1)')())",
    "_ENV as a parameter": "local f = load('local _ENV = ... return io') return seek(f and f({}))",
    "string methods": "local s = '' return (s.dump or s.execute or s.popen) and 'out' or 'in'",
    "string methods give the bounded functions": "return ('').find == string.find and ('').rep == string.rep and 'in' or 'out'",
    "the metatable of strings": "local m = getmetatable('') return (type(m) == 'table' or pcall(setmetatable, '', {})) and 'out' or 'in'",
    "__index of strings": "pcall(function() getmetatable('').__index = { len = 1 } end) return ('').len == string.len and 'in' or 'out'",
    "_G.__index": "local m = getmetatable(_G) return seek(type(m) == 'table' and m.__index, type(m) == 'table' and m)",
    "walking": """
        local seen = {}
        local function walk(value)
          if is_raw(value) or type(value) == "userdata" then return true end
          if type(value) ~= "table" or seen[value] then return false end
          seen[value] = true
          for k, v in next, value do if walk(k) or walk(v) then return true end end
          return walk(getmetatable(value))
        end
        for _, value in next, { _G, ctx, ctx.headers, ctx.query, response.text("x"), spawn(sleep, 0), json.null, coroutine.running() } do
          if walk(value) then return "out" end
        end
        return "in" """,
    # bytecode
    "binary text": "return (load('\\27Lua') or load('\\27LuaT\\0\\25') or load('\\27LJ\\2')) and 'out' or 'in'",
    "binary from a function": "local n = 0 return load(function() n = n + 1 return n == 1 and '\\27' or n == 2 and 'Lua' or nil end) and 'out' or 'in'",
    "mode b": "return (load('\\27Lua', 'x', 'b') or load('\\27LJ', 'x', 'bt', {})) and 'out' or 'in'",
    "string.dump": "return (string.dump or pcall(function() return (''):dump() end)) and 'out' or 'in'",
    # libraries
    "package": "return (package or rawget(_G, 'package') or pcall(require, 'package')) and 'out' or 'in'",
    "require of libraries": "for _, n in next, { 'io', 'os', 'debug', 'ffi', 'jit', 'jit.util', 'python', '_G' } do"
    " if pcall(require, n) then return 'out' end end return 'in'",
    "os": "return (os.execute or os.exit or os.getenv or os.remove or os.rename or os.tmpname or os.setlocale) and 'out' or 'in'",
    # shared tables
    "proxies": "for _, t in next, { json, response, log, greenlua, env, json.null } do"
    " if pcall(function() t.encode = 1 end) or getmetatable(t) == nil or type(getmetatable(t)) == 'table' or pcall(setmetatable, t, {})"
    " then return 'out' end end return 'in'",
    "proxies hold nothing": "return rawget(json, 'encode') == nil and next(json) == nil and 'in' or 'out'",
    "rawset on what all share": "for _, t in next, { json, response, log, greenlua, env, json.null } do"
    " if pcall(rawset, t, 'encode', print) or rawget(t, 'encode') then return 'out' end end return 'in'",
    "table functions on a proxy": "pcall(table.insert, json, 1) pcall(table.sort, json) local ok = pcall(table.concat, json)"
    " return type(json.encode) == 'function' and 'in' or 'out'",
    "what pairs gives": "local _, t = pairs(response) if t then t.text = nil end return response.text and 'in' or 'out'",
    "metatables of ours": "for _, v in next, { ctx, ctx.headers, ctx.query, response.text('x'), spawn(sleep, 0), json.array() } do"
    " if type(getmetatable(v)) == 'table' or pcall(setmetatable, v, {}) then return 'out' end end return 'in'",
    "the metatable of errors": "local _, e = pcall(absent) _, e = pcall(fail) return type(getmetatable(e)) == 'table' and 'out' or 'in'",
    "finalizers": "return pcall(setmetatable, {}, { __gc = function() end }) and 'out' or 'in'",
    "a finalizer put in later": "local m = {} setmetatable({}, m) m.__gc = function() end"
    " return pcall(setmetatable, {}, m) and 'out' or 'in'",
    # coroutines of the engine
    "resuming oneself": "local co = coroutine.running() return coroutine.resume(co) and 'out' or 'in'",
    "resuming another task": "local co spawn(function() co = coroutine.running() sleep(0.05) end) sleep(0)"
    " return (coroutine.resume(co) or coroutine.close and pcall(coroutine.close, co)) and 'out' or 'in'",
    "resuming a coroutine that waits": "local inner = coroutine.create(function() sleep(0.05) end)"
    " spawn(function() coroutine.resume(inner) end) sleep(0) return coroutine.resume(inner) and 'out' or 'in'",
    "wrapping what is not ours": "return pcall(coroutine.wrap, coroutine.running()) and 'out' or 'in'",
    "yielding from the request": "return pcall(coroutine.yield, 1, 'sleep', 2) and 'out' or 'in'",
    "an operation of one's own": "local co = coroutine.wrap(function() coroutine.yield(function() end, 'sleep', 5) return 'x' end)"
    " return type(co()) == 'function' and 'in' or 'out'",
    "what an inner coroutine is seen to yield": "local co = coroutine.create(function() sleep(0) coroutine.yield('mine') end)"
    " local _, value = coroutine.resume(co) return value == 'mine' and 'in' or 'out'",
    # forged objects
    "a forged task": "local t = spawn(sleep, 0) local forged = setmetatable({}, { __index = t, __name = 'greenlua.task' })"
    " return (pcall(wait, forged) or pcall(t.cancel, forged)) and 'out' or 'in'",
    "the inside of a task": "local t = spawn(sleep, 0) for k in next, t do return 'out' end return rawget(t, 'main') and 'out' or 'in'",
    "a forged ctx": "local forged = setmetatable({}, { __eq = function() return true end, __index = ctx })"
    " return pcall(ctx.defer, forged, print) and 'out' or 'in'",
    "another number for ctx": "rawset(ctx, 1, 10^9) return ctx.template and 'out' or 'in'",
}


def app_of(codes: dict[str, str], more: str = "") -> str:
    routes = "\n".join(f'app:get("/{n}", function(ctx)\n{code}\nend)' for n, code in enumerate(codes.values()))
    return f"local app = greenlua.app {{}}\n{HEAD}\n{more}\n{routes}\nreturn app"


def test_no_way_leads_out(write: Write, lua: str) -> None:
    def fail() -> None:
        raise ValueError("x")

    app = create_app(write(app_of(ESCAPES)), lua=lua, slots=8)
    app.expose("fail", fail)
    asked = client(app)
    answers = {name: asked.get(f"/{number}").text for number, name in enumerate(ESCAPES)}
    assert answers == dict.fromkeys(ESCAPES, "in")


def test_without_the_sandbox_all_of_lua_is_there(write: Write, lua: str) -> None:
    codes = {"": "return type(io.open) .. type(os.execute) .. type(debug.getinfo) .. type(string.dump(function() end))"}
    assert client(write(app_of(codes)), lua=lua, sandbox=False).get("/0").text == "functionfunctionfunctionstring"


# ------------------------------------------------------------ require


def test_require_stays_in_the_apps_folder(write: Write, lua: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.lua"
    secret.write_text("return 'out'")
    write("return '\\27'", "app/fine.lua")
    (tmp_path / "app" / "binary.lua").write_bytes(b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n")
    (tmp_path / "app" / "jit.lua").write_bytes(b"\x1bLJ\x02\x0a")
    os.symlink(secret, tmp_path / "app" / "link.lua")
    os.symlink(tmp_path, tmp_path / "app" / "folder")
    names = [
        "../secret", "..secret", "...secret", ".secret", "folder.secret", "folder/secret", "link", "./fine", "fine/", "fine.lua",
        str(tmp_path / "secret"), "/etc/passwd", "fine\\0", "\\0", "", ".", "..", ("a" * 100000), "a." * 5000 + "a",
        "greenlua/../secret", "greenlua.../secret", "greenlua.sandbox", "greenlua.engine", "greenlua.nothing", "Greenlua.engine",
        "GREENLUA.json", "binary", "jit", "%s%s", "fine;", "f\\195\\164ine",
    ]  # fmt: skip
    tries = "\n".join(f'try("{name}")' for name in names)
    path = write(
        f"local app = greenlua.app {{}}\nlocal got = {{}}\n"
        f"local function try(name) if pcall(require, name) then got[#got + 1] = name end end\n{tries}\n"
        f"try(nil) try({{}}) try(5)\nassert(require('fine') == '\\27')\n"
        "app:get('/', function() return json.array(got) end)\nreturn app",
        "app/app.lua",
    )
    assert client(path, lua=lua, slots=8).get("/").json == []


# ------------------------------------------------------------ two requests at once in one VM

PEEK = """
local other
local function try(f) local ok, value = pcall(f) return ok and value ~= nil and tostring(value) or "-" end
local function look()
  local c = other
  local seen = {}
  for _, name in next, { "method", "path", "host", "client_ip", "request_id", "body", "query", "cookies", "json", "form", "files" } do
    seen[#seen + 1] = try(function() return c[name] end)
  end
  seen[#seen + 1] = try(function() return c.headers.content_type end)
  seen[#seen + 1] = try(function() for k, v in pairs(c.headers) do return v end end)
  seen[#seen + 1] = try(function() c:defer(print) return "deferred" end)
  seen[#seen + 1] = try(function() return c:read() end)
  local headers = c.headers
  for key in next, headers do -- whatever the key is under which a request stands
    if type(key) == "table" then
      local mine = setmetatable({ [key] = c }, { __index = headers })
      seen[#seen + 1] = try(function() return mine.content_type end)
    end
  end
  return table.concat(seen)
end
app:post("/victim", function(ctx)
  other = ctx
  ctx:defer(function() deferred = look() end)
  sleep(0.2)
  return ctx.headers.authorization -- kept in its ctx from now on, and nothing else is
end)
app:post("/thief", function(ctx) return look() end)
app:get("/deferred", function() return deferred end)
"""


def test_a_ctx_shows_its_request_to_nobody_else(write: Write, lua: str) -> None:
    asked = client(write(app_of({}, PEEK)), lua=lua, slots=8)
    victim = gevent.spawn(asked.post, "/victim?secret=1", headers={"Authorization": "secret"}, body="secret")
    gevent.sleep(0.05)
    assert not victim.ready()
    thief: Any = asked.post("/thief", headers={"Authorization": "own"}, body="own")
    assert set(thief.text) == {"-"}
    assert victim.get(timeout=30).text == "secret"
    with gevent.Timeout(30):
        while not (seen := asked.get("/deferred").text):
            gevent.sleep(0.01)
    assert set(seen) == {"-"}
    assert set(asked.post("/thief", headers={"Authorization": "own"}, body="own").text) == {"-"}


@pytest.mark.parametrize("field", ["kind", "status", "body", "headers"])
@pytest.mark.parametrize("value", ["{}", "-1", "1e9", "'x'", "print", "json.null", "0/0"])
def test_a_response_that_was_changed_is_at_worst_an_error(write: Write, field: str, value: str) -> None:
    codes = {"": f"local r = response.text('fine') r.{field} = {value} return r", "x": "return 'next'"}
    asked = client(write(app_of(codes)), slots=8)
    assert asked.get("/0").status_code in (200, 404, 500)
    assert asked.get("/1").text == "next"
