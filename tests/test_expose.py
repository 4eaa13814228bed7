"""Python functions as Lua functions: what they may do, what becomes of their errors, and the command line's --extend."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua.app import LuaApp, create_app
from greenlua.errors import ConfigurationError
from greenlua.testing import client, serve

Write = Callable[..., Path]


@pytest.fixture
def make(write: Write) -> Iterator[Callable[..., Any]]:
    apps: list[LuaApp] = []

    def make_app(code: str, functions: dict[str, Any], lua: str = "5.4", **settings: Any) -> tuple[Any, LuaApp]:
        path = write(f"local app = greenlua.app {{}}\napp:get('/', function(ctx)\n{code}\nend)\nreturn app")
        app = create_app(path, lua=lua, **settings)
        for name, function in functions.items():
            app.expose(name, **function) if isinstance(function, dict) else app.expose(name, function)
        app.start()
        apps.append(app)
        return client(app), app

    yield make_app
    for app in apps:
        app.stop(5)


def raises(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> None:
        raise error

    return function


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


def test_a_function_is_a_global_and_parts_of_its_name_are_tables(make: Any, lua: str) -> None:
    functions = {"add": lambda a, b: a + b, "users.find": lambda n: {"id": n}, "users.admin.count": lambda: 3}
    asked, _ = make("return { add(1, 2), users.find(7), users.admin.count() }", functions, lua)
    assert asked.get("/").json == [3, {"id": 7}, 3]


def test_expose_is_a_decorator_with_and_without_a_name(write: Write) -> None:
    app = create_app(
        write("local app = greenlua.app {} app:get('/', function() return { one(), b.two() } end) return app")
    )

    @app.expose
    def one() -> int:
        return 1

    @app.expose("b.two")
    def two() -> int:
        return 2

    assert (one(), two()) == (1, 2)  # they stay what they are
    assert client(app).get("/").json == [1, 2]
    app.stop(1)


def test_it_waits_without_blocking_anyone(make: Any, lua: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def slow() -> None:
        inside.append(1)
        gevent.sleep(0.02)
        most.append(len(inside))
        inside.pop()

    asked, app = make("slow() return 'x'", {"slow": slow}, lua)
    greenlets = [gevent.spawn(asked.get, "/") for _ in range(50)]
    gevent.joinall(greenlets, raise_error=True)
    assert max(most) == 50
    assert app.statistics()["dispatcher"]["under_way"] == 0


def test_operations_at_once_are_bounded_and_the_others_wait(make: Any) -> None:
    inside: list[int] = []
    most: list[int] = []

    def slow() -> None:
        inside.append(1)
        most.append(len(inside))
        gevent.sleep(0.01)
        inside.pop()

    asked, app = make("slow() return 'x'", {"slow": slow}, operations=3)
    greenlets = [gevent.spawn(asked.get, "/") for _ in range(20)]
    wait_until(lambda: app.statistics()["dispatcher"]["turn"] > 0)
    gevent.joinall(greenlets, raise_error=True)
    assert [greenlet.value.text for greenlet in greenlets] == ["x"] * 20
    assert max(most) == 3
    assert [asked.get("/").text for _ in range(5)] == ["x"] * 5  # and all turns are given back


def test_blocking_runs_in_another_thread(make: Any) -> None:
    here = threading.get_ident()
    asked, _ = make(
        "return { ident() }", {"ident": {"function": lambda: threading.get_ident() != here, "blocking": True}}
    )
    assert asked.get("/").json == [True]


ERRORS = [
    (ValueError("bad luck"), "ValueError", "bad luck"),
    (KeyError("x"), "KeyError", "'x'"),
    (type("OwnError", (Exception,), {})("ö"), "OwnError", "ö"),
    (gevent.Timeout(5), "Timeout", "5 seconds"),
    (SystemExit(3), "SystemExit", "3"),
    (
        type("Unshowable", (Exception,), {"__str__": lambda self: 1 / 0})(),
        "Unshowable",
        "an error that cannot be shown",
    ),
]


@pytest.mark.parametrize(("error", "kind", "message"), ERRORS, ids=[row[1] + row[2][:3] for row in ERRORS])
def test_what_python_raises_is_a_lua_error_and_its_traceback_is_logged(
    make: Any, error: BaseException, kind: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    code = "local ok, e = pcall(f) return { ok, e.type, e.message, tostring(e), 'said: ' .. e }"
    asked, _ = make(code, {"f": raises(error)})
    where = f"app.lua:3: {kind}: {message}"
    assert asked.get("/").json == [False, kind, message, where, "said: " + where]
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.getMessage().startswith("f failed [")


def test_a_long_message_is_cut_in_the_log(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked, _ = make("local ok, e = pcall(f) return { #e.message }", {"f": raises(ValueError("x" * 1_000_000))})
    assert asked.get("/").json == [1_000_000]
    [message] = [record.getMessage() for record in caplog.records if "f failed" in record.getMessage()]
    assert len(message) < 66_000
    assert "Traceback" in message
    assert message.endswith("characters)")


def test_an_uncaught_error_is_a_500_that_says_nothing_and_a_log_line_that_does(
    make: Any, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked, _ = make("f()", {"f": raises(ValueError("secret"))}, lua)
    answer = asked.get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert any("app.lua:3: ValueError: secret" in record.getMessage() for record in caplog.records)


def test_a_result_that_lua_does_not_have_is_an_error_that_names_the_place(make: Any, lua: str) -> None:
    asked, _ = make("return { select(2, pcall(f)).message }", {"f": lambda: {"a": [object()]}}, lua)
    assert asked.get("/").json == [
        "f gave what cannot go to Lua: .a[0]: it is of the type object, which Lua does not have"
    ]


def test_too_few_arguments_are_python_s_error(make: Any) -> None:
    def find(user_id: int) -> int:
        return user_id

    asked, _ = make("return { select(2, pcall(find)).message }", {"find": find})
    assert "missing 1 required positional argument: 'user_id'" in asked.get("/").json[0]


def test_a_request_whose_time_is_over_ends_the_function_where_it_waits(make: Any, lua: str) -> None:
    ended: list[str] = []

    def slow() -> None:
        try:
            gevent.sleep(30)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    asked, app = make("slow()", {"slow": slow}, lua, request_timeout=0.1)
    assert asked.get("/").status_code == 504
    wait_until(lambda: ended)
    assert ended == ["GreenletExit"]
    assert app.statistics()["dispatcher"]["under_way"] == 0


def test_a_late_result_reaches_nobody(make: Any) -> None:
    stubborn = gevent.event.Event()

    def slow() -> str:
        try:
            gevent.sleep(30)
        except gevent.GreenletExit:
            stubborn.wait()  # it will not end
        return "late"

    asked, app = make(
        "if ctx.query.own then return ctx.query.own end return slow()", {"slow": slow}, request_timeout=0.1, slots=1
    )
    assert asked.get("/").status_code == 504
    assert asked.get("/", params={"own": "mine"}).text == "mine"
    stubborn.set()
    for n in range(20):
        assert asked.get("/", params={"own": str(n)}).text == str(n)
    assert app.statistics()["pool"]["in_use"] == 0


def test_a_function_that_was_never_begun_is_not_called_after_its_request(make: Any) -> None:
    calls: list[int] = []

    def slow(n: int) -> None:
        calls.append(n)
        gevent.sleep(0.3)

    asked, app = make("slow(tonumber(ctx.query.n))", {"slow": slow}, operations=1, request_timeout=0.1)
    greenlets = [gevent.spawn(asked.get, "/", params={"n": str(n)}) for n in range(3)]
    gevent.joinall(greenlets, raise_error=True)
    wait_until(lambda: app.statistics()["dispatcher"]["under_way"] == 0)
    assert calls == [0]


def test_a_timer_that_a_function_left_behind_harms_nobody(make: Any) -> None:
    def leaves() -> None:
        gevent.Timeout(0.01).start()

    asked, _ = make(
        "if ctx.query.leave then leaves() end return add(1, 2) .. ''", {"leaves": leaves, "add": lambda a, b: a + b}
    )
    for _ in range(5):
        asked.get("/", params={"leave": "1"})
    gevent.sleep(0.05)
    for _ in range(20):
        assert asked.get("/").text == "3"


def test_a_worker_that_was_killed_while_it_was_idle_loses_nothing(make: Any) -> None:
    def suicidal() -> None:
        gevent.spawn_later(0.02, gevent.kill, gevent.getcurrent())

    code = "if ctx.query.kill then suicidal() end return add(1, 2) .. ''"
    asked, app = make(code, {"suicidal": suicidal, "add": lambda a, b: a + b}, operations=1, request_timeout=2)
    for _ in range(3):
        assert asked.get("/", params={"kill": "1"}).text == "3"
        gevent.sleep(0.05)
        assert asked.get("/").text == "3"
    assert app.statistics()["dispatcher"]["under_way"] == 0


def test_a_log_handler_that_waits_costs_no_worker(make: Any) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0.3)

    handler = Slow()
    logging.getLogger("greenlua").addHandler(handler)
    try:
        code = "if ctx.query.fail then f() end return add(1, 2) .. ''"
        functions = {"f": raises(ValueError("x")), "add": lambda a, b: a + b}
        asked, app = make(code, functions, operations=2, request_timeout=0.2)
        failing = [gevent.spawn(asked.get, "/", params={"fail": "1"}) for _ in range(4)]
        gevent.joinall(failing, raise_error=True)
        wait_until(lambda: app.statistics()["dispatcher"]["under_way"] == 0)
    finally:
        logging.getLogger("greenlua").removeHandler(handler)
    gevent.sleep(0.7)
    assert [asked.get("/").text for _ in range(5)] == ["3"] * 5


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), ValueError("x")], ids=lambda error: type(error).__name__
)
def test_what_a_thread_raises_is_a_lua_error_too(make: Any, error: BaseException) -> None:
    asked, _ = make("return { select(2, pcall(f)).type }", {"f": {"function": raises(error), "blocking": True}})
    for _ in range(2):
        assert asked.get("/").json == [type(error).__name__]


def test_a_context_variable_is_of_one_call(make: Any) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    def who(name: str | None) -> str:
        before = user.get()
        if name:
            user.set(name)
        return before

    asked, _ = make("return { who(ctx.query.name) }", {"who": who})
    assert asked.get("/", params={"name": "alice"}).json == ["nobody"]
    assert asked.get("/").json == ["nobody"]


def test_names_of_our_own_operations_hide_nothing(write: Write) -> None:
    source = """
require "greenlua.crypto"
local app = greenlua.app {}
app:get("/", function() return { stream.begin(1), body.read(2), password.hash("x") } end)
return app"""
    app = create_app(write(source))
    for name in ("stream.begin", "body.read", "password.hash"):
        app.expose(name, lambda value: f"mine {value}")
    assert client(app).get("/").json == ["mine 1", "mine 2", "mine x"]
    app.stop(1)


def test_a_large_result_that_came_too_late_is_not_put_before_the_next(make: Any, lua: str) -> None:
    late = gevent.event.Event()

    def large(kind: str) -> list[str]:
        if kind == "late":
            try:
                gevent.sleep(9)
            except gevent.GreenletExit:
                late.wait()
        return [kind] * 20_000

    asked, _ = make(
        "local l = large(ctx.query.kind) return { #l, l[1], l[#l] }", {"large": large}, lua, request_timeout=0.5
    )
    assert asked.get("/", params={"kind": "late"}).status_code == 504
    late.set()
    assert asked.get("/", params={"kind": "own"}).json == [20_000, "own", "own"]


NAMES = [
    ("", "'' is no Lua name"),
    ("a b", "'a b' is no Lua name"),
    ("a.", "'a.' is no Lua name"),
    ("end", "'end' is no Lua name"),
    ("a.while", "'a.while' is no Lua name"),
    ("ö", "'ö' is no Lua name"),
    ("taken", "expose 'taken': 'taken' is exposed already"),
    ("taken.inner", "expose 'taken.inner': 'taken' is exposed already"),
    ("table.of", ""),
]


@pytest.mark.parametrize(("name", "sentence"), NAMES, ids=[row[0] or "empty" for row in NAMES])
def test_a_name_that_cannot_be_is_refused(write: Write, name: str, sentence: str) -> None:
    app = create_app(write("return greenlua.app {}"))
    app.expose("taken", print)
    if sentence:
        with pytest.raises(ConfigurationError, match=sentence):
            app.expose(name, print)
    else:
        app.expose(name, print)
        with pytest.raises(ConfigurationError, match="would change the global table"):
            app.start()


def test_a_global_of_lua_is_not_replaced(write: Write, lua: str) -> None:
    app = create_app(write("return greenlua.app {}"), lua=lua)
    app.expose("print", print)
    with pytest.raises(ConfigurationError, match="the exposed function print would replace what is there already"):
        app.start()


def test_expose_comes_before_the_start_and_takes_functions(write: Write) -> None:
    app = create_app(write("return greenlua.app {}"))
    with pytest.raises(ConfigurationError, match="takes a function, and not 5"):
        app.expose("x", 5)
    app.start()
    with pytest.raises(ConfigurationError, match="before the app is started"):
        app.expose("x", print)
    app.stop(1)


# ---------------------------------------------------------------- the command line

EXTENSION = """
import os
def setup(app):
    app.expose("pid", os.getpid)
def other(app):
    app.expose("pid", lambda: "other")
"""
PID_APP = "local app = greenlua.app {} app:get('/', function() return { pid() } end) return app"


@pytest.fixture
def folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write(PID_APP)
    write(EXTENSION, "extension.py")
    monkeypatch.chdir(path.parent)
    return path.parent


@pytest.mark.parametrize("more", [(), ("--workers", "2"), ("--server", "pywsgi")], ids=["one", "workers", "pywsgi"])
def test_the_command_line_extends_an_app(folder: Path, more: tuple[str, ...]) -> None:
    with serve("app.lua", "--extend", "extension", *more) as server:
        [pid] = json.load(urllib.request.urlopen(server.url))
        assert isinstance(pid, int)
        assert (pid == server.process.pid) == (more != ("--workers", "2"))


def greenlua(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "greenlua", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


MISTAKES = [
    ("extension:nothing", "--extend extension:nothing: the module extension has no function nothing(app)"),
    ("extension.py", "--extend takes the name of a module, not a file: extension, not extension.py"),
    ("nowhere", "--extend nowhere: there is no module 'nowhere' in {folder} or installed"),
]


@pytest.mark.parametrize(("extension", "sentence"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_wrong_extension_is_one_sentence(folder: Path, extension: str, sentence: str) -> None:
    assert greenlua("check", "app.lua", "--extend", extension) == (2, f"greenlua: {sentence.format(folder=folder)}\n")


def test_check_and_routes_take_extensions(folder: Path) -> None:
    assert greenlua("check", "app.lua", "--extend", "extension:other") == (0, "app.lua: ok, 1 route, Lua 5.4\n")
    status, shown = greenlua("routes", "app.lua", "--extend", "extension")
    assert status == 0
    assert "/" in shown
