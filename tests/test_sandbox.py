"""The world of user code: what is in it, what is not, how far a string of Lua can reach, and rules for globals."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import client
from greenlua.vm import MODULES

Write = Callable[..., Path]


def evaluate(write: Write, lua: str, *codes: str, head: str = "", **settings: Any) -> list[Any]:
    """What each code returns in a handler, as JSON values; a failure is its message."""
    routes = "\n".join(f'app:get("/{n}", function(ctx) return response.json(f{n}()) end)' for n in range(len(codes)))
    functions = "\n".join(f"local function f{n}() {code} end" for n, code in enumerate(codes))
    path = write(f"local app = greenlua.app {{}}\n{head}\n{functions}\n{routes}\nreturn app")
    api = client(path, lua=lua, slots=8, dev=True, **settings)
    results = [api.get(f"/{n}") for n in range(len(codes))]
    return [result.json if result.status_code == 200 else result.json["detail"] for result in results]


ABSENT = [
    "io",
    "debug",
    "package",
    "python",
    "dofile",
    "loadfile",
    "collectgarbage",
    "ffi",
    "jit",
    "loadstring",
    "setfenv",
    "getfenv",
    "module",
    "newproxy",
    "host",
    "prelude",
    "os.execute",
    "os.exit",
    "os.getenv",
    "os.remove",
    "os.rename",
    "os.tmpname",
    "os.setlocale",
    "string.dump",
    '("").dump',
    "_G.io",
    "_G._G.debug",
    "_ENV and _ENV.io",
]


def test_what_reaches_out_is_absent(write: Write, lua: str) -> None:
    assert evaluate(write, lua, *(f"return type({name})" for name in ABSENT)) == ["nil"] * len(ABSENT)


PRESENT = [
    "assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawset", "select", "setmetatable",
    "getmetatable", "tonumber", "tostring", "type", "xpcall", "load", "print", "require", "sleep", "now",
    "string.format", "table.concat", "table.sort", "math.floor", "os.time", "os.date", "os.clock", "os.difftime",
    "coroutine.wrap", "coroutine.create", "json.encode", "json.decode", "json.array", "response.json", "log.info",
]  # fmt: skip


def test_what_a_handler_needs_is_present(write: Write, lua: str) -> None:
    assert evaluate(write, lua, *(f"return type({name})" for name in PRESENT)) == ["function"] * len(PRESENT)


def test_no_way_leads_to_python_or_to_the_real_globals(write: Write, lua: str) -> None:
    codes = [
        # every value that can be reached by walking tables is plain Lua
        """local seen, found = {}, {}
        local function walk(value, path)
          if type(value) == "userdata" then found[#found + 1] = path end
          if type(value) ~= "table" or seen[value] then return end
          seen[value] = true
          for key, item in pairs(value) do walk(item, path .. "." .. tostring(key)) end
          local meta = getmetatable(value)
          if type(meta) == "table" then walk(meta, path .. ":meta") end
        end
        walk(_G, "_G") walk(greenlua, "greenlua") walk(ctx_kept or {}, "ctx")
        return json.array(found)""",
        "return _G == _G._G and rawget(_G, 'io') == nil",
        "return type(now)",
        "return tostring(getmetatable('x'))",
        "return tostring(getmetatable(json)) .. tostring(getmetatable(json.null)) .. tostring(getmetatable(env))",
        "return select(2, pcall(setmetatable, json.null, {}))",
        "local ok = pcall(function() getmetatable('').__index = {} end) return ok",
        "local t = {} for k, v in pairs(json) do t[#t + 1] = k end table.sort(t) return t",
        "local _, t = pairs(json) t.encode = nil return type(json.encode)",
        "return (pcall(function() json.encode = nil end))",
        "return (pcall(function() env.PATH = 'x' end))",
    ]
    answers = evaluate(write, lua, *codes)
    assert answers[:4] == [[], True, "function", "string"]
    assert answers[4] == "jsonjson.nullgreenlua.env"
    assert "protected metatable" in answers[5]
    assert answers[6:] == [False, ["array", "decode", "encode", "null"], "function", False, False]


def test_an_error_from_python_is_no_way_out(write: Write, lua: str) -> None:
    codes = [
        f"local ok, e = pcall(function() {code} end) return {{ ok, type(e), type(getmetatable(e)) ~= 'table' }}"
        for code in (
            "error(now(1, 2, 3))",
            "ctx_kept[1] = 10^9 return ctx_kept.template .. 1",
            "ctx_kept[1] = 'x' return ctx_kept.params",
            "return ctx_kept.headers[('x'):rep(100000)]",
        )
    ]
    head = "ctx_kept = nil app:before(function(ctx) ctx_kept = ctx end)"
    for ok, kind, closed in evaluate(write, lua, *codes, head=head):
        assert ok is False or kind == "nil"
        assert kind != "userdata"
        assert closed


LOAD = {
    "return load('return 1 + 1')()": 2,
    "return load(function() return nil end) ~= nil": True,
    "local parts = { 'return ', '7' } local i = 0 return load(function() i = i + 1 return parts[i] end)()": 7,
    "return load('return x', 'name', 't', { x = 5 })()": 5,
    "x_global = 1 return load('return x_global')()": 1,
    "return type(load('return io')())": "nil",
    "local f, why = load('= =') return { f == nil, why }": [True, "=load:1: unexpected symbol near '='"],
    "return select(2, load('\\27Lua'))": None,
    "return select(2, load('\\27LJ', 'x', 'b'))": None,
    "return (pcall(load, {}))": False,
}


def test_load_takes_text_only_and_stays_inside(write: Write, lua: str) -> None:
    for (code, expected), answer in zip(LOAD.items(), evaluate(write, lua, *LOAD), strict=True):
        if expected is None:
            assert isinstance(answer, str), code
        elif isinstance(expected, list):
            assert answer[0] is True
            assert answer[1].endswith(":1: unexpected symbol near '='")
        else:
            assert answer == expected, code


def test_env_reads_the_environment(write: Write, lua: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GL_TEST", "ä")
    codes = [
        "return env.GL_TEST",
        *(f"return tostring({name})" for name in ("env.GL_NONE", "env[5]", "env['A=B']", "env['\\0']")),
    ]
    assert evaluate(write, lua, *codes) == ["ä", "nil", "nil", "nil", "nil"]


def test_now_is_the_time(write: Write, lua: str) -> None:
    assert evaluate(write, lua, "return math.abs(now() - os.time()) < 2") == [True]


def test_pairs_follows_its_metamethod_on_every_lua(write: Write, lua: str) -> None:
    codes = [
        "for k, v in pairs(setmetatable({}, { __pairs = function() return next, { a = 1 }, nil end })) do return k .. v end",
        "for k, v in pairs({ x = 1 }) do return k .. v end",
    ]
    assert evaluate(write, lua, *codes) == ["a1", "x1"]


# ---------------------------------------------------------------- gsub on LuaJIT, which is our own

SUBJECTS = ["", "a", "abc", "hello world", "a,b,,c", "  x  ", "äö", "x" * 50, "k=v; k2=v2", "\0a\0"]
PATTERNS = [
    "",
    ".",
    "%w+",
    "%w*",
    "^%s*",
    "^a",
    "a$",
    "(%w)(%w*)",
    "()",
    "%s",
    "(%w+)=(%w+)",
    "x-",
    "[^,]*",
    "b*",
    "%f[%w]%w+",
]
REPLACEMENTS = [
    "function(...) return '<' .. table.concat({ tostring((...)), tostring((select('#', ...))) }, '|') .. '>' end",
    "function() end",
    "function() return false end",
    "function() return 5 end",
    "{ a = 'A', k = false, hello = 7 }",
    "setmetatable({}, { __index = function(_, key) return '[' .. tostring(key) .. ']' end })",
]


def test_gsub_with_callbacks_is_luajits_gsub(write: Write) -> None:
    cases = [
        (subject, pattern, replacement, limit)
        for subject in SUBJECTS
        for pattern in PATTERNS
        for replacement in REPLACEMENTS
        for limit in ("nil", 0, 1, 2)
    ]
    chosen = random.Random(1).sample(cases, 600)
    code = "".join(
        f"do local ok, s, n = pcall(string.gsub, {quoted(subject)}, {quoted(pattern)}, {replacement}, {limit})"
        " out[#out + 1] = tostring(ok) .. s .. tostring(n) end\n"
        for subject, pattern, replacement, limit in chosen
    )
    raw = import_module(MODULES["luajit"]).LuaRuntime(encoding=None)
    expected = raw.execute(f"local out = {{}}\n{code}\nreturn table.concat(out, '\\1')".encode())
    path = write(
        f"local app = greenlua.app {{}} local out = {{}}\n{code}\n"
        "app:get('/', function() return table.concat(out, '\\1') end) return app"
    )
    answers = client(path, lua="luajit", slots=8).get("/").content.split(b"\1")
    for case, ours, theirs in zip(chosen, answers, expected.split(b"\1"), strict=True):
        assert ours == theirs, case


def quoted(text: str) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def test_gsub_refuses_what_luajits_gsub_refuses(write: Write) -> None:
    codes = [
        "return select(2, pcall(string.gsub, 'a', 'a', function() return {} end))",
        "return (pcall(string.gsub, 'a', '(', function() end))",
        "return (pcall(string.gsub, nil, 'a', function() end))",
        "return (pcall(string.gsub, 'a', 'a', nil))",
        "return (('a1'):gsub('%d', '<%0>'))",
    ]
    answers = evaluate(write, "luajit", *codes)
    assert answers[0].endswith("invalid replacement value (a table)")
    assert answers[1:] == [False, False, False, "a<1>"]


# ---------------------------------------------------------------- globals written while requests run

GLOBALS = """
declared = 0
app:get("/declared", function() declared = declared + 1 return { n = declared } end)
app:get("/new", function()
  total = (total or 0) + 1
  return { n = total }
end)
app:get("/nested", function() coroutine.wrap(function() local function f() inner = 1 end f() end)() return { n = inner } end)
app:get("/loaded", function() load("by_load = 1")() return {} end)
app:get("/raw", function() rawset(_G, "by_rawset", 1) return {} end)
app:get("/number", function() _G[7] = true return { n = _G[7] and 7 } end)
"""


def serve_globals(write: Write, lua: str, rule: str) -> Any:
    return client(write(f"local app = greenlua.app {{}}\n{GLOBALS}\nreturn app"), lua=lua, slots=8, globals=rule)


def test_a_global_is_shared_by_all_requests(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    api = serve_globals(write, lua, "allow")
    for n in (1, 2, 3):
        assert api.get("/declared").json == api.get("/new").json == {"n": n}
    assert not caplog.records


def test_the_first_write_of_a_new_global_is_warned_of_with_its_place(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = serve_globals(write, lua, "warn")
    for n in (1, 2):
        assert api.get("/declared").json == api.get("/new").json == {"n": n}
        api.get("/raw")
        assert api.get("/nested").json == {"n": 1}
        assert api.get("/number").json == {"n": 7}
        api.get("/loaded")
    sentences = [record.getMessage() for record in caplog.records]
    assert [sentence.split(": the global ")[0] for sentence in sentences] == [
        "app.lua:6",
        "app.lua:9",
        "app.lua:12",
        "load:1",
    ]
    assert (
        "the global total is new and shared by all requests; write local total, or declare it at the top"
        in sentences[0]
    )
    assert [sentence.split(" ")[3] for sentence in sentences] == ["total", "inner", "7", "by_load"]


def test_denied_globals_are_failures_that_name_the_line(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = serve_globals(write, lua, "deny")
    assert api.get("/declared").json == {"n": 1}
    for path, line in (("/new", 6), ("/nested", 9), ("/number", 12)):
        caplog.clear()
        assert api.get(path).status_code == 500
        assert f"app.lua:{line}: the global " in caplog.text
    assert api.get("/new").status_code == 500


@pytest.mark.parametrize(
    "name", ["io", "debug", "dofile", "loadfile", "package", "collectgarbage", "jit", "ffi", "python"]
)
def test_what_the_sandbox_has_not_is_missed_with_a_word(write: Callable[..., Path], lua: str, name: str) -> None:
    path = write(f'local app = greenlua.app {{}}\napp:get("/", function() return {name}.open("x") end)\nreturn app')
    detail = client(path, lua=lua, dev=True).get("/").json["detail"]
    assert detail.startswith("app.lua:2: attempt to index")
    assert detail.endswith(f": the sandbox has no {name} (setting sandbox)")


def test_another_global_that_is_nil_is_said_as_lua_says_it(write: Callable[..., Path], lua: str) -> None:
    path = write('local app = greenlua.app {}\napp:get("/", function() return iox.open("x") end)\nreturn app')
    assert "sandbox" not in client(path, lua=lua, dev=True).get("/").json["detail"]
