"""Mistakes in an app's declarations stop the start with one sentence that names the line and helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from greenlua.errors import ConfigurationError
from greenlua.testing import client

Write = Callable[..., Path]

# The code stands in lines 2 and following, between the app's making and its return; the sentence is the whole first line.
MISTAKES = {
    # routes
    'app:get("/x")': "app.lua:2: the handler of app:get /x must be a function, not nil (is the name spelled right, and",
    'app:get("/x", show)': "app.lua:2: the handler of app:get /x must be a function, not nil (is the name spelled right, and",
    'app:post("/x", "text")': "app.lua:2: the handler of app:post /x must be a function, not a string",
    'app:get("/x", {}, {})': "app.lua:2: the handler of app:get /x must be a function, not a table",
    'app:get("/x", {}, print, print)': "app.lua:2: app:get takes a template, options and a handler; there is more",
    'app:get("/x", print, {})': "app.lua:2: the options of app:get /x must be a table, not a function (the handler comes last)",
    "app:get(print)": "app.lua:2: the template of app:get must be a string, not a function",
    "app:get()": "app.lua:2: the template of app:get must be a string, not a nil",
    'app:get("x", print)': 'app.lua:2: the template "x" must begin with /',
    'app:get("", print)': 'app.lua:2: the template "" must begin with /',
    'app:get("/a b", print)': 'app.lua:2: the template "/a b" has white space in it',
    'app:get("/a\\n", print)': 'app.lua:2: the template "/a',
    'app:get("/{a }", print)': "app.lua:2: the template /{a } is wrong: ",
    'app:get("/a?b={b}", print)': (
        'app.lua:2: the template "/a?b={b}" has a ? in it: a template is for the path; the handler finds the query in ctx.query'
    ),
    'app.get("/x", print)': "app.lua:2: call it with a colon: app:get(...), not app.get(...)",
    "app.before(print)": "app.lua:2: call it with a colon: app:before(...), not app.before(...)",
    'app.group("/x", print)': "app.lua:2: call it with a colon: app:group(...), not app.group(...)",
    'app.route("GET", "/x", print)': "app.lua:2: call it with a colon: app:route(...), not app.route(...)",
    'app:gett("/x", print)': "app.lua:2: app has nothing called gett; did you mean get?",
    'app:Get("/x", print)': "app.lua:2: app has nothing called Get; did you mean get?",
    "app:on_eror(print)": "app.lua:2: app has nothing called on_eror; did you mean on_error?",
    'app:listen("8080")': (
        "app.lua:2: app has nothing called listen; its methods are after, before, constant, delete, every, get, group, head,"
        " on_error, on_start, on_stop, options, patch, post, purge, put, route, schema, security_scheme"
    ),
    'app:route("FETCH", "/x", print)': (
        "app.lua:2: app:route does not know the method FETCH; the methods are GET POST PUT PATCH DELETE HEAD OPTIONS"
    ),
    'app:route({ "GET", 5 }, "/x", print)': "app.lua:2: app:route does not know the method 5; the methods are",
    'app:route({}, "/x", print)': "app.lua:2: app:route takes a method, or a list of methods, before the template",
    'app:route(nil, "/x", print)': "app.lua:2: app:route takes a method, or a list of methods, before the template",
    # options
    'app:get("/x", { befor = print }, print)': "app.lua:2: app:get /x has no option befor; did you mean before?",
    'app:get("/x", { retries = 5 }, print)': (
        "app.lua:2: app:get /x has no option retries; the options are after, before, body, cache, deprecated, description, headers,"
        " hidden, on_disconnect, on_error, operation_id, params, query, responses, security, stream_body, summary, tags"
    ),
    'app:get("/x", { print }, print)': "app.lua:2: app:get /x has no option 1; the options are after, before, body,",
    # answers without Lua
    'app:get("/x", { cache = "60" }, print)': (
        "app.lua:2: the option cache of app:get /x must be a number of seconds or a table with a ttl, not a string"
    ),
    'app:get("/x", { cache = 0 }, print)': (
        "app.lua:2: ttl of cache of app:get /x must be a number of seconds above 0, up to a year, not 0"
    ),
    'app:get("/x", { cache = 0/0 }, print)': "app.lua:2: ttl of cache of app:get /x must be a number of seconds above 0",
    'app:get("/x", { cache = 1e9 }, print)': "app.lua:2: ttl of cache of app:get /x must be a number of seconds above 0",
    'app:get("/x", { cache = {} }, print)': (
        "app.lua:2: cache of app:get /x needs a ttl: the seconds for which an answer is kept"
    ),
    'app:get("/x", { cache = { tll = 5 } }, print)': "app.lua:2: cache of app:get /x has no option tll; did you mean ttl?",
    'app:get("/x", { cache = { ttl = 5, stale = -1 } }, print)': (
        "app.lua:2: stale of cache of app:get /x must be a number of seconds from 0, up to a year, not -1"
    ),
    'app:get("/x", { cache = { ttl = 5, private = 1 } }, print)': (
        "app.lua:2: the option private of cache of app:get /x must be a boolean, not a number"
    ),
    'app:get("/x", { cache = { ttl = 5, vary = { "a b" } } }, print)': (
        "app.lua:2: vary of cache of app:get /x must be a list of header names; a b is none"
    ),
    'app:get("/x", { cache = { ttl = 5, vary = "*" } }, print)': (
        "app.lua:2: vary of cache of app:get /x must be a list of header names; * is none"
    ),
    'app:get("/x", { cache = { ttl = 5, query = { page = true } } }, print)': (
        "app.lua:2: query of cache of app:get /x must be a list of names of query parameters; nil is none"
    ),
    'app:get("/x", { cache = { ttl = 5, cookies = { "a=b" } } }, print)': (
        "app.lua:2: cookies of cache of app:get /x must be a list of cookie names; a=b is none"
    ),
    'app:get("/x", { cache = { ttl = 5, key = "page" } }, print)': (
        "app.lua:2: key of cache of app:get /x must be a function, not a string"
    ),
    'app:get("/x", { cache = { ttl = 5, kye = print } }, print)': (
        "app.lua:2: cache of app:get /x has no option kye; did you mean key?"
    ),
    'app:get("/x", { cache = { ttl = 5, ignore = 5 } }, print)': (
        "app.lua:2: ignore of cache of app:get /x must be a list of header names, client_ip, scheme or *, not 5"
    ),
    'app:get("/x", { cache = { ttl = 5, errors = { 304 } } }, print)': (
        "app.lua:2: errors of cache of app:get /x must be true or a list of statuses from 200 to 599, without 206 and 304;"
        " 304 is none"
    ),
    'app:get("/x", { cache = { ttl = 5, errors = "all" } }, print)': (
        "app.lua:2: errors of cache of app:get /x must be true or a list of statuses, not a string"
    ),
    'app:post("/x", { cache = 5 }, print)': (
        "app.lua:2: the option cache of app:post /x is for GET and HEAD only, not for POST"
    ),
    'app:route({ "GET", "PUT" }, "/x", { cache = 5 }, print)': (
        "app.lua:2: the option cache of app:route /x is for GET and HEAD only, not for PUT"
    ),
    'app:group("/x", { cache = 5 }, print)': "app.lua:2: the group /x has no option cache; the options are",
    "app:constant()": "app.lua:2: the path of app:constant must be a string, not a nil",
    'app:constant("x", "")': 'app.lua:2: the path "x" of app:constant must begin with /',
    'app:constant("/{x}", "")': 'app.lua:2: the path "/{x}" of app:constant has white space, a ? or a brace in it; it is one',
    'app:constant("/x")': "app.lua:2: the body of app:constant /x must be a string or a table, not a nil",
    'app:constant("/x", print)': "app.lua:2: the body of app:constant /x must be a string or a table, not a function",
    'app:constant("/x", { print })': "app.lua:2: the answer cannot be JSON: ",
    'app:constant("/x", "", 5)': "app.lua:2: the options of app:constant /x must be a table, not a number",
    'app:constant("/x", "", {}, 5)': "app.lua:2: app:constant /x takes a path, a body and options; there is more",
    'app:constant("/x", "", { stauts = 5 })': "app.lua:2: app:constant /x has no option stauts; did you mean status?",
    'app:constant("/x", "", { status = 100 })': "app.lua:2: the status must be an integer from 200 to 599, not 100",
    'app:constant("/x", "", { headers = { ["a b"] = "" } })': 'app.lua:2: "a b" is no header name',
    'app:group("/g", function(g)\n  g:constant("/x", "")\nend)': "app.lua:3: app:constant is the app's, not a group's",
    'app:constant("/x", "")\napp:constant("/x", "")': "app.lua:3: the constant /x is already declared at app.lua:2",
    'app:constant("/x", "")\napp:post("/x", print)': "app.lua:2: the constant /x is already declared at app.lua:3",
    "app:purge(5)": 'app.lua:2: app:purge takes a path, as "/items/7", or the beginning of some, as "/items/*", not a number',
    'app:purge("x")': 'app.lua:2: app:purge takes a path, as "/items/7", or the beginning of some, as "/items/*", not "x"',
    'app.purge("/x")': "app.lua:2: call it with a colon: app:purge(...), not app.purge(...)",
    'app:purge("/x", "/y")': "app.lua:2: app:purge takes one path; there is more",
    'app:get("/x", { on_disconnect = "stay" }, print)': (
        'app.lua:2: the option on_disconnect of app:get /x must be "cancel" or "finish", not "stay"'
    ),
    'app:group("/x", { on_disconnect = true }, print)': (
        'app.lua:2: the option on_disconnect of the group /x must be "cancel" or "finish", not true'
    ),
    'app:get("/x", { before = 5 }, print)': "app.lua:2: before of app:get /x must be a function, not a number",
    'app:get("/x", { after = { print, 5 } }, print)': "app.lua:2: after[2] of app:get /x must be a function, not a number",
    'app:get("/x", { after = { a = print } }, print)': "app.lua:2: after[1] of app:get /x must be a function, not nil",
    'app:get("/x", { after = { print, nil, print } }, print)': "app.lua:2: after[2] of app:get /x must be a function, not nil",
    "app:before()": "app.lua:2: app:before's argument must be a function, not nil",
    "app:on_error({})": "app.lua:2: app:on_error's argument must be a function, not a table",
    # groups
    'app:group("/x")': "app.lua:2: what fills the group /x must be a function, not nil",
    'app:group("x", print)': 'app.lua:2: the template "x" must begin with /',
    'app:group("/x", 5, print)': "app.lua:2: the options of the group /x must be a table, not a number",
    'app:group("/x", { befor = print }, print)': "app.lua:2: the group /x has no option befor; did you mean before?",
    'app:group("/x", {}, print, print)': "app.lua:2: app:group takes a prefix, options and a function; there is more",
    'app:group("/g", function(g)\n  g:get("/x", nothing)\nend)': "app.lua:3: the handler of app:get /g/x must be a function",
    # templates that Falcon refuses
    'app:get("/{", print)': 'app.lua:2: the template "/{" has a brace without its partner; a field is written {name} or {name:int}',
    'app:get("/{a", print)': 'app.lua:2: the template "/{a" has a brace without its partner',
    'app:get("/a}", print)': 'app.lua:2: the template "/a}" has a brace without its partner',
    'app:get("/{{a}}", print)': 'app.lua:2: the template "/{{a}}" has a brace without its partner',
    'app:get("/{}", print)': "app.lua:2: the template /{} is wrong: ",
    'app:get("/{a}/{a}", print)': "app.lua:2: the template /{a}/{a} is wrong: ",
    'app:get("/{a-b}", print)': "app.lua:2: the template /{a-b} is wrong: ",
    'app:get("/{a:number}", print)': "app.lua:2: the template /{a:number} is wrong: ",
    'app:get("/{a:int(x)}", print)': "app.lua:2: the template /{a:int(x)} is wrong: ",
    'app:get("/{a:path}/b", print)': "app.lua:2: the template /{a:path}/b is wrong: ",
    'app:get("/items/{id}", print)\napp:get("/x/{item-id}", print)': "app.lua:3: the template /x/{item-id} is wrong: ",
    'app:get("/items/{id}", print)\napp:get("/x/{a:intt}", print)': "app.lua:3: the template /x/{a:intt} is wrong: ",
    # conflicts name both places
    'app:get("/x", print)\napp:get("/x", print)': "app.lua:3: GET /x is already declared at app.lua:2",
    'app:get("/{a}", print)\napp:route({ "POST", "GET" }, "/{a}", print)': "app.lua:3: GET /{a} is already declared at app.lua:2",
    'app:route({ "GET", "get" }, "/x", print)': "app.lua:2: GET /x is already declared at app.lua:2",
    'app:get("/x", print)\napp:group("/x", function(g)\n  g:get("/", print)\nend)': (
        "app.lua:4: GET /x is already declared at app.lua:2"
    ),
    'app:get("/{a}", print)\napp:post("/{b}", print)': (
        "app.lua:3: /{b} cannot be told from /{a}, declared at app.lua:2; give the same field the same name and type"
    ),
    'app:get("/{a:int}", print)\napp:get("/x", print)\napp:get("/{a:uuid}", print)': (
        "app.lua:4: /{a:uuid} cannot be told from /{a:int}, declared at app.lua:2"
    ),
    # the app
    "greenlua.app {}": "app.lua:2: greenlua.app was already called at app.lua:1; a program has one app",
    # Lua itself
    "local x = = 1": "app.lua:2: unexpected symbol near '='",
    "if true then": "app.lua:3: 'end' expected",
    "local t = nil; t.x = 1": "app.lua:2: attempt to index",
    'error("own words")': "app.lua:2: own words",
    'error("own words", 0)': "own words",
    "error({})": "an error object that is a table",
    "error(response.error(404))": "app.lua: a response was thrown while the app loaded",
    "sleep(1)": "app.lua:2: sleep cannot wait here: no request runs; call it in a handler, or at the start",
    "coroutine.wrap(function() sleep(0) end)()": "app.lua:2: sleep cannot wait here: no request runs; call it in a handler",
    "coroutine.yield()": "app.lua:2: attempt to yield from outside a coroutine",
    "\x1bLua": "app.lua:2: ",
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_stops_the_start_with_a_sentence_that_names_its_line(write: Write, lua: str, code: str) -> None:
    path = write(f"local app = greenlua.app {{}}\n{code}\nreturn app")
    with pytest.raises(ConfigurationError) as caught:
        client(path, lua=lua, slots=8)
    assert str(caught.value).startswith(MISTAKES[code]), str(caught.value)
    assert "[greenlua]" not in str(caught.value)


# The whole file.
PROGRAMS = {
    "": "app.lua: it never called greenlua.app; a program begins with: local app = greenlua.app {}",
    "return {}": "app.lua: it never called greenlua.app",
    "greenlua.app {}": "app.lua: it returned nothing; end it with: return app",
    "local app = greenlua.app {} return nil": "app.lua: it returned nothing; end it with: return app",
    "local app = greenlua.app {} return {}": "app.lua: it returned a table; end it with: return app",
    "local app = greenlua.app {} return function() end": "app.lua: it returned a function; end it with: return app",
    "return greenlua.app(5)": "greenlua.app takes a table, not a number",
    "local app = greenlua.app { titel = 'x' } return app": "app.lua:1: greenlua.app has no option titel; did you mean title?",
    "local app = greenlua.app { 'x' } return app": "app.lua:1: greenlua.app has no option 1; the options are ",
    "local app = greenlua.app { title = 5 } return app": "app.lua:1: the option title of greenlua.app must be a string, not a",
    "local app = greenlua.App {} return app": "app.lua:1: greenlua has nothing called App; did you mean app?",
    "greenlua.app = 5": "app.lua:1: greenlua cannot be changed",
    "#!/usr/bin/env greenlua\nerror('x')": "app.lua:2: x",
    "\x1bLuaQ": "app.lua: attempt to load ",
}


@pytest.mark.parametrize("source", PROGRAMS)
def test_a_program_declares_one_app_and_returns_it(write: Write, lua: str, source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client(write(source), lua=lua, slots=8)
    assert str(caught.value).startswith(PROGRAMS[source]), str(caught.value)


def test_an_error_while_loading_comes_with_its_traceback(write: Write, lua: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client(write("local function f()\n  local x = {} .. 1\nend\n\nf()"), lua=lua)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("app.lua:2: attempt to concatenate a table value")
    assert lines[1] == "stack traceback:"
    assert [line.strip().split(" ")[0] for line in lines[2:]] == ["app.lua:2:", "app.lua:5:"]


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path, lua: str) -> None:
    for path in (tmp_path / "nothing.lua", tmp_path):
        with pytest.raises(ConfigurationError, match=str(path)):
            client(path, lua=lua)


LATE = [
    'app:get("/new", print)',
    'app:group("/new", print)',
    "app:before(print)",
    "greenlua.app {}",
    'app:route("GET", "/new", print)',
    'app:constant("/new", "")',
]


def test_nothing_can_be_declared_in_a_handler(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    routes = "\n".join(f'app:get("/{n}", function() {code} end)' for n, code in enumerate(LATE))
    api = client(write(f"local app = greenlua.app {{}}\n{routes}\nreturn app"), lua=lua, slots=8)
    for n, code in enumerate(LATE):
        caplog.clear()
        assert api.get(f"/{n}").status_code == 500
        assert (
            f"app.lua:{n + 2}: {code[: code.find('(')].rstrip(' {}')} can be called only while the app loads"
            in caplog.text
        )
    assert api.get("/new").status_code == 404


def test_what_is_declared_well_serves(write: Write, lua: str) -> None:
    path = write(
        """#!/usr/bin/env -S greenlua run
local app = greenlua.app { title = "T", version = "1.2.3" }
local function say(text) return function(ctx) return { text, ctx.method, ctx.template } end end
app:get("/", say "root")
app:route("patch", "/one", say "one")
app:route({ "put", "DELETE" }, "/two", say "two")
app:group("/g/", function(g)
  g:get("/", say "group")
  g:get("/x/", say "slash")
  g:group("/h", function(h) h:get("/{id:int}", say "inner") end)
end)
app:group("/", function(g) g:get("/flat", say "flat") end)
app:get("/{name}", say "field")
app:get("/fixed", say "fixed")
app:get("/few/{n:int(min=1, max=5)}", say "few")
app:get("/c", tostring)
app.note = "fields of one's own are fine"
return app"""
    )
    api = client(path, lua=lua, slots=8)
    for method, address, answer in (
        ("GET", "/", ["root", "GET", "/"]),
        ("PATCH", "/one", ["one", "PATCH", "/one"]),
        ("PUT", "/two", ["two", "PUT", "/two"]),
        ("DELETE", "/two", ["two", "DELETE", "/two"]),
        ("GET", "/g", ["group", "GET", "/g"]),
        ("GET", "/g/x/", ["slash", "GET", "/g/x/"]),
        ("GET", "/g/h/7", ["inner", "GET", "/g/h/{id:int}"]),
        ("GET", "/flat", ["flat", "GET", "/flat"]),
        ("GET", "/anything", ["field", "GET", "/{name}"]),
        ("GET", "/fixed", ["fixed", "GET", "/fixed"]),
        ("GET", "/few/5", ["few", "GET", "/few/{n:int(min=1, max=5)}"]),
    ):
        assert api.simulate_request(method, address).json == answer, address
    assert api.get("/c").text == "ctx of /c"
    routes = {route.template: route for route in api.app.table.routes}
    assert (routes["/"].place, routes["/"].handler_place) == ("app.lua:4", "app.lua:3")
    assert (routes["/c"].place, routes["/c"].handler_place) == ("app.lua:16", "app.lua:16")
