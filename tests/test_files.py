"""response.file: files of the app's folder, and nothing else, as answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenlua.testing import client

Write = Callable[..., Path]


def answers(write: Write, lua: str, *codes: str) -> list[Any]:
    """The answer of each handler body, all in one app."""
    routes = "\n".join(f'app:get("/{n}", function(ctx) {code} end)' for n, code in enumerate(codes))
    api = client(write(f"local app = greenlua.app {{}}\n{routes}\nreturn app"), lua=lua, slots=8)
    return [api.get(f"/{n}") for n in range(len(codes))]


# options, content type, Content-Disposition
FILES = [
    ("'page.html'", "text/html; charset=utf-8", None),
    ("'sub/style.css'", "text/css; charset=utf-8", None),
    ("'sub/../page.html'", "text/html; charset=utf-8", None),
    ("'image.png'", "image/png", None),
    ("'data'", "application/octet-stream", None),
    ("'archive.tar.gz'", "application/octet-stream", None),
    ("'ä b.txt'", "text/plain; charset=utf-8", None),
    ("'empty.txt'", "text/plain; charset=utf-8", None),
    ("'data', { content_type = 'image/x' }", "image/x", None),
    ("'data', { headers = { ['content-type'] = 'image/y' } }", "image/y", None),
    (
        "'data', { download = 'a.txt' }",
        "application/octet-stream",
        "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt",
    ),
    (
        "'data', { download = 'ä \"b\\r\\n.txt' }",
        "application/octet-stream",
        "attachment; filename=\"__ _b__.txt\"; filename*=UTF-8''%C3%A4%20%22b%0D%0A.txt",
    ),
]


def test_a_file_is_sent_with_its_type_and_length(write: Write, lua: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    contents = {name: os.urandom(200_000) for name in ("image.png", "data", "archive.tar.gz")}
    contents |= {"page.html": b"<p>", "sub/style.css": b"a{}", "ä b.txt": b"\xff", "empty.txt": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    results = answers(write, lua, *(f"return response.file({arguments})" for arguments, *_ in FILES))
    for (arguments, content_type, disposition), result in zip(FILES, results, strict=True):
        name = arguments.split("'")[1].replace("sub/../", "")
        assert result.status_code == 200, arguments
        assert result.content == contents[name], arguments
        assert result.headers["Content-Type"] == content_type, arguments
        assert result.headers["Content-Length"] == str(len(contents[name])), arguments
        assert result.headers.get("Content-Disposition") == disposition, arguments
        assert result.headers["Last-Modified"].endswith(" GMT")


def test_a_file_may_have_a_status_and_headers(write: Write, lua: str) -> None:
    code = "return response.file('app.lua', { status = 203, headers = { ['X-A'] = 'b', ['Last-Modified'] = 'never' } })"
    [result] = answers(write, lua, code)
    assert (result.status_code, result.headers["X-A"], result.headers["Last-Modified"]) == (203, "b", "never")


NO_FILES = [
    "missing.txt",
    "",
    ".",
    "sub",
    "../secret.txt",
    "sub/../../secret.txt",
    "/etc/passwd",
    "app.lua/x",
    "a\\0b",
    "link",
    "links/secret.txt",
    "links/app/app.lua",
    "sub/../links/app/app.lua",
    "sub/../" * 200 + "app.lua",
    "loop",
    "pipe",
    "a" * 5000,
    "\\255",
]


def test_what_is_no_file_of_the_apps_folder_is_a_404(write: Write, lua: str, tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (app / "link").symlink_to(tmp_path / "secret.txt")
    (app / "links").symlink_to(tmp_path)
    (app / "loop").symlink_to("loop")
    os.mkfifo(app / "pipe")

    def write_inside(source: str) -> Path:
        return write(source, "app/app.lua")

    results = answers(write_inside, lua, *(f"return response.file('{name}')" for name in NO_FILES))
    for name, result in zip(NO_FILES, results, strict=True):
        assert (result.status_code, result.json["detail"]) == (404, "there is no such file"), name


def test_a_link_inside_the_folder_is_followed(write: Write, lua: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to("..")
    names = ["b.txt", ".//" * 1000 + "b.txt", "sub/up/b.txt", "sub/../b.txt", "./sub/up/./sub/up/a.txt"]
    results = answers(write, lua, *(f"return response.file('{name}')" for name in names))
    assert [result.text for result in results] == ["a"] * 5
