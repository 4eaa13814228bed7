"""Constants: what an app answers without Lua, prepared when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from greenlua.cli import main
from greenlua.inline import matches
from tests.cache_site import Open, Write

CONSTANTS: dict[str, tuple[str, int, str, bytes]] = {
    "text": ('"User-agent: *\\n"', 200, "text/plain; charset=utf-8", b"User-agent: *\n"),
    "JSON": ("{ a = 1 }", 200, "application/json", b'{"a":1}'),
    "a list": ("{ 1, 2 }", 200, "application/json", b"[1,2]"),
    "nothing": ('""', 200, "text/plain; charset=utf-8", b""),
    "a type": ('"<p>", { type = "text/html" }', 200, "text/html", b"<p>"),
    "a type of JSON": (
        '{ a = "ä" }, { type = "application/ld+json" }',
        200,
        "application/ld+json",
        '{"a":"ä"}'.encode(),
    ),
    "a status": ('"gone", { status = 410 }', 410, "text/plain; charset=utf-8", b"gone"),
    "bytes": ('"\\0\\1\\127\\128\\255ä", { type = "image/x" }', 200, "image/x", b"\0\x01\x7f\x80\xff" + "ä".encode()),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_what_it_was_given(site: Open, lua: str, name: str) -> None:
    code, status, kind, body = CONSTANTS[name]
    api = site(f'app:constant("/c", {code})', lua=lua)
    answer = api.ask("/c?query=is&not=looked-at")
    assert (answer.status, answer.headers["content-type"], answer.body) == (status, kind, body)
    assert answer.headers["content-length"] == str(len(body))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "age" not in answer.headers
    head = api.ask("/c", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (status, b"", str(len(body)))
    known = api.ask("/c", headers={"If-None-Match": answer.headers["etag"]})
    assert known.status == (304 if status == 200 else status)
    assert api.app.statistics()["pool"]["taken"] == 0


def test_its_own_headers(site: Open, lua: str) -> None:
    api = site(
        """
        local headers = { ETag = '"v1"', ["X-List"] = { "a", "b" }, ["X-Latin"] = "\\228" }
        app:constant("/c", "x", { headers = headers, type = "text/css" })
        assert(not headers["Content-Type"])""",
        lua=lua,
    )
    answer = api.ask("/c")
    assert [value for name, value in answer.all_headers if name == "X-List"] == ["a", "b"]
    assert (answer.headers["etag"], answer.headers["x-latin"], answer.headers["content-type"]) == (
        '"v1"',
        "ä",
        "text/css",
    )
    assert [name.lower() for name, _ in answer.all_headers].count("etag") == 1
    assert api.ask("/c", headers={"If-None-Match": '"v1"'}).status == 304


def test_no_content_has_none(site: Open) -> None:
    answer = site('app:constant("/c", "", { status = 204 })').ask("/c")
    assert (answer.status, answer.body, "content-length" in answer.headers) == (204, b"", False)


def test_other_methods_are_told_which_there_are(site: Open) -> None:
    api = site('app:constant("/c", "x")')
    refused = api.ask("/c", method="POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    options = api.ask("/c", method="OPTIONS")
    assert (options.status, options.headers["allow"], options.body) == (204, "GET, HEAD, OPTIONS", b"")
    assert api.ask("/c/").status == api.ask("//c").status == 404


def test_a_constant_beats_a_template(site: Open) -> None:
    api = site('app:get("/{name}", { cache = 60 }, count)\napp:constant("/c", "x")')
    assert [api.ask(path).body for path in ("/c", "/d", "/d", "/c")] == [b"x", b'{"n":1}', b'{"n":1}', b"x"]
    assert api.ask("/c", method="POST").status == 405


def test_a_path_of_any_script(site: Open) -> None:
    assert site('app:constant("/ä", "x")').ask("/ä").body == b"x"


def test_reload_replaces_constants(site: Open) -> None:
    api = site('app:constant("/c", "one")')
    api.app.path.write_text(api.app.path.read_text().replace('"/c", "one"', '"/d", "two"'))
    api.app.reload()
    assert (api.ask("/c").status, api.ask("/d").body) == (404, b"two")


def test_the_command_line_lists_them(write: Write, tmp_path: Path) -> None:
    path = write('local app = greenlua.app {}\napp:get("/x", print)\napp:constant("/robots.txt", "x")\nreturn app')
    lines = CliRunner().invoke(main, ["routes", str(path)]).output.splitlines()
    assert lines[-1].split() == ["GET,HEAD", "/robots.txt", "constant,", "app.lua:3"]


@pytest.mark.parametrize(
    ("condition", "etag", "found"),
    [
        ('"a"', '"a"', True),
        ('"b", W/"a" , "c"', '"a"', True),
        ('"a"', 'W/"a"', True),
        (" * ", '"a"', True),
        ('"ab"', '"a"', False),
        ("a", '"a"', False),
        ("", '"a"', False),
    ],
)
def test_if_none_match_is_compared_weakly(condition: str, etag: str, found: Any) -> None:
    assert matches(condition, etag) is found
