"""require: what it finds, what it refuses, and whose line an error names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenlua.errors import ConfigurationError
from greenlua.testing import client

Write = Callable[..., Path]


def load(write: Write, lua: str, body: str, modules: dict[str, str] | None = None) -> Any:
    for name, source in (modules or {}).items():
        write(source, name)
    return client(write(f"local app = greenlua.app {{}}\n{body}\nreturn app"), lua=lua, slots=8)


def refusal(write: Write, lua: str, body: str, modules: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(write, lua, body, modules)
    return str(caught.value)


# ---------------------------------------------------------------- what it finds

FILES = {
    "plain.lua": "return { name = ... }",
    "lib/init.lua": "return { name = ... }",
    "lib/deep/er.lua": "return { name = ... }",
    "with-dash_1.lua": "return { name = ... }",
    "both.lua": "return { name = 'file' }",
    "both/init.lua": "return { name = 'folder' }",
    "umlautä.lua": "return { name = ... }",
    "shebang.lua": "#!/usr/bin/lua\nreturn { name = ... }",
}
FOUND = ["plain", "lib", "lib.init", "lib.deep.er", "with-dash_1", "umlautä", "shebang"]


def test_modules_are_files_of_the_apps_folder(write: Write, lua: str) -> None:
    lines = [f'local m{n} = require "{name}"' for n, name in enumerate([*FOUND, "both"])]
    names = ", ".join(f"m{n}.name" for n in range(len(lines)))
    api = load(write, lua, "\n".join(lines) + f'\napp:get("/", function() return {{ {names} }} end)', FILES)
    assert api.get("/").json == [*FOUND, "file"]


def test_a_module_is_run_once_and_shared(write: Write, lua: str) -> None:
    modules = {
        "counter.lua": "runs = (runs or 0) + 1 return { n = 0 }",
        "a.lua": 'return require "counter"',
        "nothing.lua": "",
        "refused.lua": "return false",
    }
    body = """
local counter, same = require "counter", require "a"
local nothing, refused = require "nothing", require "refused"
app:get("/", function()
  counter.n = counter.n + 1
  local late = require "counter"
  return { runs = runs, same = counter == same, late = late == same, n = same.n, nothing = nothing, refused = refused }
end)"""
    api = load(write, lua, body, modules)
    expected = {"runs": 1, "same": True, "late": True, "nothing": True, "refused": False}
    assert api.get("/").json == expected | {"n": 1}
    assert api.get("/").json == expected | {"n": 2}


def test_what_is_global_is_also_a_module_of_greenlua(write: Write, lua: str) -> None:
    body = """
local same = {}
for _, name in ipairs { "json", "response", "log", "env", "sleep", "now" } do
  same[name] = require("greenlua." .. name) == _G[name] and greenlua[name] == _G[name]
end
app:get("/", function() return { same = same, all = require "greenlua" == greenlua, version = require "greenlua.version" } end)"""
    answer = load(write, lua, body).get("/").json
    assert answer["all"] is True
    assert answer["same"] == dict.fromkeys(("json", "response", "log", "env", "sleep", "now"), True)
    assert answer["version"].count(".") == 2


def test_routes_and_hooks_may_be_declared_in_modules(write: Write, lua: str) -> None:
    modules = {
        "users.lua": 'return function(g)\n  g:get("/{id}", function(ctx) return { id = ctx.params.id } end)\nend'
    }
    api = load(write, lua, 'app:group("/users", require "users")', modules)
    assert api.get("/users/7").json == {"id": "7"}
    assert api.app.table.routes[0].place == "users.lua:2"


# ---------------------------------------------------------------- what it refuses

REFUSED = {
    '"missing"': "there is no module 'missing': no missing.lua and no missing/init.lua in the app's folder",
    '"lib.missing"': "there is no module 'lib.missing': no lib/missing.lua and no lib/missing/init.lua in the app's folder",
    '"greenlua.missing"': 'there is no module "greenlua.missing"; there are greenlua.crypto, greenlua.env, greenlua.http',
    '"greenlua.app"': 'there is no module "greenlua.app"; there are greenlua.crypto, greenlua.env, greenlua.http',
    '"greenlua.sandbox"': 'there is no module "greenlua.sandbox"; there are greenlua.crypto, greenlua.env, greenlua.http',
    '"plain.lua"': "there is no module 'plain.lua': no plain/lua.lua",
    '"folder"': "there is no module 'folder'",
    '""': "'' is no module name",
    '"."': "'.' is no module name",
    '".."': "'..' is no module name",
    '"..secret"': "'..secret' is no module name",
    '"../secret"': "'../secret' is no module name",
    '"lib/deep"': "'lib/deep' is no module name",
    '"/etc/passwd"': "'/etc/passwd' is no module name",
    '"plain\\0"': "'plain\\x00' is no module name",
    '"plain\\n"': "'plain\\n' is no module name",
    '"\\255"': "is no module name",
    '"a b"': "'a b' is no module name",
    '("a"):rep(5000)': "there is no module 'aaa",
    '"link"': "link.lua leads out of the app's folder",
    '"links.secret"': "links/secret.lua leads out of the app's folder",
    '"loop"': "there is no module 'loop'",
    "5": "require takes a name, not a number",
    "nil": "require takes a name, not a nil",
    '"io"': "there is no module 'io'",
    '"ffi"': "there is no module 'ffi'",
    '"jit"': "there is no module 'jit'",
    '"os"': "there is no module 'os'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_require_finds_nothing_else(write: Write, lua: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.lua").write_text("return 'secret'")
    app = tmp_path / "app"
    (app / "folder.lua").mkdir(parents=True)
    (app / "plain.lua").write_text("return 'plain'")
    (app / "link.lua").symlink_to(tmp_path / "secret.lua")
    (app / "links").symlink_to(tmp_path)
    (app / "loop.lua").symlink_to("loop.lua")
    path = write(f"local x = require({name})\nreturn x", "app/app.lua")
    with pytest.raises(ConfigurationError) as caught:
        client(path, lua=lua)
    message = str(caught.value).split("\nstack traceback")[0]
    assert message.startswith("app.lua:1: ")
    assert REFUSED[name] in message


def test_a_circle_is_named(write: Write, lua: str) -> None:
    modules = {"a.lua": 'local b = require "b"\nreturn b', "b.lua": '\nlocal a = require "a"\nreturn a'}
    assert refusal(write, lua, 'local a = require "a"', modules).startswith(
        'b.lua:2: require "a" goes round in a circle'
    )
    assert refusal(write, lua, 'local c = require "c"', {"c.lua": 'local c = require "c"'}).startswith("c.lua:1: ")


BROKEN = {
    "local x = = 1": "lib/broken.lua:1: unexpected symbol near '='",
    "\n\nerror('own words')": "lib/broken.lua:3: own words",
    "local t\nt.x = 1": "lib/broken.lua:2: attempt to index",
    "\x1bLua": "lib/broken.lua: attempt to load ",
    'return require "lib.missing"': "there is no module 'lib.missing'",
    "sleep(1)": "lib/broken.lua:1: sleep cannot wait here",
}


@pytest.mark.parametrize("source", BROKEN)
def test_an_error_in_a_module_names_the_modules_line(write: Write, lua: str, source: str) -> None:
    message = refusal(write, lua, 'local x = require "lib.broken"', {"lib/broken.lua": source})
    assert BROKEN[source] in message.split("\nstack")[0]
    assert "[greenlua]" not in message


def test_the_traceback_reaches_into_the_module(write: Write, lua: str) -> None:
    modules = {
        "outer.lua": '\nlocal inner = require "inner"\n',
        "inner.lua": "local function f()\n  error('deep')\nend\nf()",
    }
    message = refusal(write, lua, '\nlocal outer = require "outer"', modules)
    assert message.startswith("inner.lua:2: deep\nstack traceback:")
    for place in ("inner.lua:2", "inner.lua:4", "outer.lua:2", "app.lua:3"):
        assert f"{place}:" in message.split("traceback:")[1], place


def test_a_module_that_failed_can_be_caught_and_tried_again(write: Write, lua: str) -> None:
    modules = {
        "flaky.lua": "tries = (tries or 0) + 1 if tries < 3 then error('try ' .. tries, 0) end return tries",
        "thrower.lua": "error(thrown)",
    }
    body = """
thrown = { code = 1 }
local answers = {}
for i = 1, 3 do answers[i] = select(2, pcall(require, "flaky")) end
answers[4] = select(2, pcall(require, "thrower")) == thrown
answers[5] = select(2, pcall(require, "missing")):match("there is no module 'missing'")
app:get("/", function() return answers end)"""
    assert load(write, lua, body, modules).get("/").json == ["try 1", "try 2", 3, True, "there is no module 'missing'"]


def test_a_module_cannot_be_loaded_first_in_a_handler(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    api = load(write, lua, 'app:get("/", function() local m = require "late" return m end)', {"late.lua": "return {}"})
    assert api.get("/").status_code == 500
    assert 'app.lua:2: the module "late" was not loaded at the start; require it at the top of a file' in caplog.text
