"""The docs say what the code does: their snippets run, their tables and lists equal the code, their links lead somewhere.

Fenced blocks are treated by language. ``lua``: with ``return app`` it is an app; after a first line ``-- path/file.lua`` it is that
file of the app's folder; else it is the inside of an app; lines with ``-->`` are checked. ``python`` runs, beside an app.lua.
``console``: curl's answers are compared, commands must exist. ``json`` and ``toml`` must be valid.
"""

from __future__ import annotations

import http.client
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
import pytest
from click.testing import CliRunner

import greenlua
import greenlua.errors
import greenlua.testing
from greenlua import LuaApp, create_app
from greenlua.cli import main
from greenlua.clients import NAMES
from greenlua.settings import Settings, load_settings
from greenlua.slots import FREE, TRANSITIONS
from greenlua.testing import ServerProcess, client, serve
from greenlua.vm import PRELUDE

ROOT = Path(__file__).parent.parent
LUA = ROOT / "greenlua" / "lua"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "loadtests" / "README.md", *ROOT.glob("docs/*.md")])

Write = Callable[..., Path]


@pytest.fixture
def write(write: Write, tmp_path: Path) -> Write:
    """As everywhere, and with the folders that the app serves."""

    def write_app(source: str, name: str = "app.lua") -> Path:
        for folder in re.findall(r'app:static\("[^"]*", "([^"]+)"', source):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        return write(source, name)

    return write_app


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    app: str | None
    """The Lua app that stands before a console block: a file's name (<!-- app: FILE -->) or the source of the last one."""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    app, source = None, page.read_text()
    for match in re.finditer(r"^<!-- app: (\S+) -->$|^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL):
        if match[1]:
            app = match[1]
            continue
        line = source.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[2], match[3], app)
        if match[2] == "lua" and "return app" in match[3]:
            app = match[3]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(*languages: str) -> Any:
    chosen = [block for block in BLOCKS if block.language in languages]
    assert chosen, f"no blocks in {languages}"
    return pytest.mark.parametrize("block", chosen, ids=str)


def test_every_block_has_a_language_that_is_checked() -> None:
    odd = [
        str(block) for block in BLOCKS if block.language not in ("lua", "python", "console", "json", "toml", "mermaid")
    ]
    plain = [str(block) for block in BLOCKS if block.language in ("", "text")]
    assert sorted(odd) == sorted(plain), "unknown languages"
    assert len(plain) <= 3, f"blocks that nothing checks: {plain}"


ERRORS = [error for error in vars(greenlua.errors).values() if isinstance(error, type) and hasattr(error, "status")]


@contextmanager
def loaded(path: Path) -> Iterator[LuaApp]:
    app = create_app(path)
    app.start()
    try:
        yield app
    finally:
        app.stop(1)


# ------------------------------------------------------------ snippets

MODULE = re.compile(r"-- (\S+/\S+\.lua)\n")


def as_app(text: str) -> str:
    """A snippet as an app; `expression --> text` becomes an assertion."""
    checked = re.sub(
        r"^(.+?)\s+--> (.*)$",
        lambda match: f"assert(tostring({match[1]}) == [==[{match[2]}]==], tostring({match[1]}))",
        text,
        flags=re.MULTILINE,
    )
    return checked if "return app" in text else f"local app = greenlua.app {{}}\n{checked}\nreturn app\n"


@blocks("lua")
def test_lua_snippets_load(block: Block, write: Write) -> None:
    for other in BLOCKS:
        module = MODULE.match(other.text)
        if other.page == block.page and other.language == "lua" and module:
            write(other.text, module[1])
    module = MODULE.match(block.text)
    source = f'assert(require "{module[1][:-4].replace("/", ".")}")' if module else block.text
    with loaded(write(as_app(source))):
        pass


@blocks("python")
def test_python_snippets_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = block.app or (ROOT / "examples" / "hello.lua").read_text()
    (tmp_path / "app.lua").write_text(source)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "snippet"})


@blocks("json")
def test_json_snippets_are_json(block: Block) -> None:
    json.loads(block.text)


@blocks("toml")
def test_toml_snippets_are_settings(block: Block, tmp_path: Path) -> None:
    tomllib.loads(block.text)
    (tmp_path / "greenlua.toml").write_text(block.text)
    assert load_settings(tmp_path, {}) != Settings()


# ------------------------------------------------------------ commands


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that is shown for it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


def split(command: str) -> list[str]:
    """The words of a command, without variables in front and without the folder of a venv."""
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    words[0] = words[0].removeprefix(".venv/bin/")
    return words


def curl(words: list[str], server: ServerProcess) -> tuple[str, http.client.HTTPMessage, str]:
    """What curl would get. Knows -i, -X, -H and -d."""
    method, path, body, headers = None, "", None, {}
    words = words[1:]
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(":")
            headers[name] = value.strip()
        elif word == "-d":
            body = words.pop(0)
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        elif word != "-i":
            path = word.removeprefix("http://127.0.0.1:8000")
            assert path.startswith("/"), f"not an address of the server that the page starts: {word}"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method or ("POST" if body else "GET"), path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return f"HTTP/1.1 {response.status} {response.reason}", response.headers, text


def same_body(shown: str, real: str) -> bool:
    """Equal text; as JSON the order of keys does not count, and ids of requests differ each time."""
    try:
        expected, got = json.loads(shown), json.loads(real)
    except ValueError:
        return shown.strip() == real.strip()
    if isinstance(expected, dict) and isinstance(got, dict) and "request_id" in expected:
        got["request_id"] = expected["request_id"]
    return bool(expected == got)


CURLS = [block for block in BLOCKS if block.language == "console" and "$ curl " in block.text]


@pytest.mark.parametrize("block", CURLS, ids=str)
def test_curl_answers_what_the_page_shows(block: Block, write: Write) -> None:
    assert block.app is not None, "no app stands before this block"
    app = ROOT / block.app if block.app.endswith(".lua") else write(block.app)
    with serve(app) as server:
        for command, shown in commands_of(block):
            words = split(command)
            assert words[0] == "curl"
            status, headers, body = curl(words, server)
            if "-i" in words:
                head, _, shown = shown.partition("\n\n")
                lines = head.splitlines()
                assert lines[0] == status
                for line in lines[1:]:
                    name, _, value = line.partition(": ")
                    assert name in headers, command
                    assert name == "X-Request-ID" or headers[name] == value, command
            assert same_body(shown, body), f"{command}\n{body}"


def test_the_readme_shows_curl_for_the_example_and_for_the_first_app() -> None:
    assert [block.page.name for block in CURLS].count("README.md") >= 2


@blocks("console")
def test_commands_exist(block: Block, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(block.app if block.app and not block.app.endswith(".lua") else "local app = greenlua.app {}\nreturn app\n")
    for folder in ("examples", "loadtests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    for command, shown in commands_of(block):
        words = split(command)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        elif words[0] == "greenlua":
            check_greenlua(words, shown)
        elif words[0] == "python":
            ended = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=30, check=True)
            assert Path(ended.stdout.strip(), "greenlua.d.lua").is_file()
        elif words[0] == "gunicorn":
            assert "-c" not in words or Path(words[words.index("-c") + 1]).is_file()
            assert "-k" not in words or words[words.index("-k") + 1] in ("gevent", "greenlua.http.gunicorn.Worker")
        elif words[0] == "locust":
            assert (ROOT / words[words.index("-f") + 1]).is_file()
        elif words[0] == "pip":
            extra = re.search(r"\[(\w+)\]", words[-1])
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert extra is None or extra[1] in extras, command
        else:
            assert words[0] == "curl", f"nothing checks {command!r}"


def check_greenlua(words: list[str], shown: str) -> None:
    if words[1] != "run":
        result = CliRunner().invoke(main, words[1:])
        assert (result.exit_code, result.output.strip()) == (0, shown)
        return
    with serve(words[2], *words[3:]) as server:  # its --port 0 is overridden by none of ours
        line = f"greenlua: serving {words[2]} on http://127.0.0.1:{server.port} (Ctrl-C stops)"
    assert shown in ("", line.replace(f":{server.port} ", ":8000 "))


# ------------------------------------------------------------ tables that equal the code


def settings_table() -> str:
    """The table of docs/settings.md, out of greenlua.settings."""
    rows = ["| name | takes | default | meaning | in the environment |", "| --- | --- | --- | --- | --- |"]
    defaults = Settings()
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        kind, *metas = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        default = getattr(defaults, name)
        shown = default if isinstance(default, str) and default else json.dumps(default)
        meaning = next(meta.description for meta in metas if meta.description)
        rows.append(f"| `{name}` | {takes(kind, metas)} | `{shown}` | {meaning} | `GREENLUA_{name.upper()}` |")
    return "\n".join(rows)


def takes(kind: Any, metas: list[msgspec.Meta]) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind == tuple[str, ...]:
        return "list of texts"
    if kind is str:
        return "text"
    bounds = {
        name: value for meta in metas for name in ("gt", "ge", "le") if (value := getattr(meta, name)) is not None
    }
    words = [{int: "integer", float: "number"}[kind]]
    words += [f"above {bounds['gt']}"] if "gt" in bounds else [f"from {bounds['ge']}"]
    return " ".join([*words, f"to {bounds['le']}"])


def test_settings_table_equals_the_code() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    shown = page.split("<!-- settings -->\n")[1].split("\n<!-- /settings -->")[0]
    assert shown == settings_table(), f"docs/settings.md should have\n\n{settings_table()}\n"


def test_every_figure_is_explained(write: Write) -> None:
    page = (ROOT / "docs" / "python-api.md").read_text()
    with loaded(ROOT / "examples" / "hello.lua") as app:
        real = {f"{part}.{name}" for part, figures in app.statistics().items() for name in figures}
    shown = set(re.findall(r"^\| `(\w+\.\w+)` \|", page.split("### Figures")[1].split("\n## ")[0], re.MULTILINE))
    assert shown == real


def test_slot_diagram_equals_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    shown = {(was, event): will for was, will, event in re.findall(r"^ *(\w+) --> (\w+): (\w+)$", page, re.MULTILINE)}
    assert shown == TRANSITIONS
    assert f"[*] --> {FREE}\n" in page
    states = re.findall(r"^\| `([A-Z]+)` \|", page, re.MULTILINE)
    assert sorted(states) == sorted({*TRANSITIONS.values()})


def test_layer_table_names_every_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    shown = re.findall(r"`(\w+)\.py`", page.split("## Layers")[1])
    real = [file.stem for file in (ROOT / "greenlua").glob("*.py") if not file.stem.startswith("__")]
    assert sorted(shown) == sorted(real)
    prelude = page.split("The Lua half is under")[1].partition(": ")[2].split(", loaded")[0]
    assert re.findall(r"`(\w+)`", prelude) == list(PRELUDE)


def test_every_status_of_ours_is_explained() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    sources = "".join(file.read_text() for file in (*ROOT.glob("greenlua/**/*.py"), *LUA.glob("*.lua")))
    used = {int(status) for status in re.findall(r"(?:ClientError|refuse|Failure|Refusal)\(\s*(\d{3})\b", sources)}
    used |= {error.status for error in ERRORS}
    shown = {int(status) for status in re.findall(r"^\| (\d{3}) \|", page, re.MULTILINE)}
    assert len(used) > 5
    assert used <= shown
    assert shown - used <= {405}, "statuses that nothing sends"  # 405 is Falcon's


def test_changelog_begins_with_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \S+$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert versions[0] == project["version"] == greenlua.__version__


# ------------------------------------------------------------ names of the Lua API

# What there is, asked of a running app. Methods and fields cannot be listed there, so every word of the source is tried.
NAMES_APP = """
local app = greenlua.app {}
app:get("/", function(ctx)
  local names = { app = json.array {}, ctx = json.array {} }
  for _, library in ipairs { "greenlua", "response", "json", "log", "os", "v", "_G" } do
    names[library] = json.array {}
    for name in pairs(_G[library]) do table.insert(names[library], name) end
  end
  for word in ctx.query.words:gmatch("%a[%w_]*") do
    local fine, value = pcall(function() return app[word] end)
    if fine and type(value) == "function" then table.insert(names.app, word) end
    fine, value = pcall(function() return ctx[word] end)
    if fine and value ~= nil or type(value) == "table" then table.insert(names.ctx, word) end -- json throws a response
  end
  return names
end)
return app
"""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a handler finds: the keys of each library, the methods of the app, the fields of ctx."""
    path = tmp_path_factory.mktemp("names") / "app.lua"
    path.write_text(NAMES_APP)
    source = "".join(
        (LUA / f"{name}.lua").read_text()
        for name in ("routes", "context", "streams", "background", "contract", "inline", "static")
    )
    words = {word for name in re.findall(r"[A-Za-z]\w*", source) for word in (name, name.lower())}
    with loaded(path) as app:
        found: dict[str, list[str]] = client(app).get("/", params={"words": " ".join(sorted(words))}).json
    assert {"get", "route", "group", "on_error"} <= set(found["app"])
    assert {"method", "params", "json", "state"} <= set(found["ctx"])
    assert all(found.values())
    return found


def test_lua_api_page_names_everything(names: dict[str, list[str]]) -> None:
    page = (ROOT / "docs" / "lua-api.md").read_text()
    wanted = [f"app:{name}" for name in names["app"]] + [f"ctx.{name}" for name in names["ctx"]]
    wanted += [f"{library}.{name}" for library in ("response", "json", "log", "os") for name in names[library]]
    patterns = {name: re.escape(name).replace(r"ctx\.", "ctx[.:]") for name in wanted}
    missing = [name for name in wanted if not re.search(rf"`[^`\n]*\b{patterns[name]}\b[^`\n]*`", page)]
    missing += [name for name in names["greenlua"] + names["_G"] if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", page)]
    assert missing == []


def test_lua_api_page_names_nothing_that_is_not_there(names: dict[str, list[str]]) -> None:
    page = (ROOT / "docs" / "lua-api.md").read_text()
    for library in ("response", "json", "log", "v"):
        shown = set(re.findall(rf"`{library}\.(\w+)", page))
        known = set(names[library]) | ({"status", "body", "headers"} if library == "response" else set())
        assert shown <= known, library
    assert set(re.findall(r"`app:(\w+)", page)) <= set(names["app"])
    assert set(re.findall(r"\bctx\.(\w+)", page)) <= set(names["ctx"])


def test_editor_types_name_everything_and_nothing_else(names: dict[str, list[str]]) -> None:
    source = "\n".join(path.read_text() for path in sorted(LUA.glob("*.d.lua")))
    fields: dict[str, set[str]] = {}
    for match in re.finditer(r"^---@class ([\w.]+).*\n((?:---@field .*\n)*)", source, re.MULTILINE):
        fields.setdefault(match[1], set()).update(re.findall(r"^---@field (\w+)", match[2], re.MULTILINE))
    functions: dict[str, set[str]] = {}
    for library, name in re.findall(r"^function (\w+)[.:](\w+)\(", source, re.MULTILINE):
        functions.setdefault(library, set()).add(name)
    assert functions["greenlua"] | fields["greenlua"] == set(names["greenlua"])
    assert functions["Task"] == {"cancel"}
    assert functions["response"] == set(names["response"])
    assert functions["json"] | fields["greenlua.JsonLibrary"] == set(names["json"])
    assert functions["log"] == set(names["log"])
    assert functions["Scope"] == set(names["app"])
    assert fields["greenlua.Ctx"] | functions["Ctx"] == set(names["ctx"])
    assert fields["greenlua.RouteOptions"] == {"before", "after", "on_error", "on_disconnect"}
    assert fields["greenlua.OneRouteOptions"] == {"stream_body", "cache"}
    for name in ("response", "json", "log", "env"):
        assert f"\n{name} = {{}}\n" in source
    assert {"sleep", "now", "spawn", "wait", "wait_any", "timeout"} <= set(
        re.findall(r"^function (\w+)\(", source, re.MULTILINE)
    )


def test_the_page_and_the_types_of_schemas_name_everything(names: dict[str, list[str]]) -> None:
    page = (ROOT / "docs" / "contract.md").read_text()
    types = (LUA / "v.d.lua").read_text()
    assert [name for name in names["v"] if f"v.{name}" not in page] == []
    typed = set(re.findall(r"^function v\.(\w+)\(|^---@field (\w+) v\.Schema$", types, re.MULTILINE))
    assert {one or other for one, other in typed} == set(names["v"])
    declared = re.findall(
        r"^route\.(\w+)|^function route\.(\w+)|, route\.(\w+) =", (LUA / "contract.lua").read_text(), re.M
    )
    options = {name for found in declared for name in found if name}
    assert {"params", "query", "summary", "hidden", "security"} <= options
    assert [name for name in options if f"---@field {name}? " not in types or f"`{name}`" not in page] == []


@pytest.mark.parametrize("file", sorted(LUA.glob("*.d.lua")), ids=lambda file: file.name)
def test_editor_types_are_lua(write: Write, file: Path) -> None:
    source = file.read_text()
    with loaded(write(f"local app = greenlua.app {{}}\nassert(load([==[{source}]==]))\nreturn app\n")):
        pass


CLIENTS_APP = """
local app = greenlua.app {}
local modules = {}
for _, name in ipairs { "crypto", "http", "jwt", "redis", "sql", "store", "template" } do
  modules[name] = require("greenlua." .. name)
end
app:get("/", function()
  local names = {}
  for module, functions in pairs(modules) do
    names[module] = {}
    for name in pairs(functions) do table.insert(names[module], name) end
  end
  return names
end)
return app
"""
CLIENT_PAGES = {name: "http-client" if name == "http" else name for name in NAMES}


def test_pages_and_types_of_the_clients_name_everything(write: Write) -> None:
    with loaded(write(CLIENTS_APP)) as app:
        found: dict[str, list[str]] = client(app).get("/").json
    assert sorted(found) == sorted(NAMES)
    for module, names in found.items():
        page = (ROOT / "docs" / f"{CLIENT_PAGES[module]}.md").read_text()
        types = (ROOT / "greenlua" / "clients" / f"{module}.d.lua").read_text()
        assert types.startswith(f"---@meta greenlua.{module}\n")
        assert names, module
        assert [name for name in names if not re.search(rf"\b{name}\b", page)] == [], module
        typed = [
            name
            for name in names
            if re.search(rf"^function \w+\.{name}\(|\b{module}\.{name}\b|---@field {name}\b", types, re.M)
        ]
        assert sorted(typed) == sorted(names), module
        functions = set(re.findall(rf"^function {module}\.(\w+)\(", types, re.MULTILINE))
        assert functions <= set(names), module


# ------------------------------------------------------------ names of the Python API


def test_python_api_page_names_everything() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text()
    wanted = [f"greenlua.{name}" for name in greenlua.__all__]
    wanted += [f"app.{name}" for name in vars(LuaApp) if not name.startswith("_")] + ["app.path", "app.settings"]
    wanted += ["app.falcon"]
    wanted += [
        name
        for name, value in vars(greenlua.testing).items()
        if getattr(value, "__module__", None) == "greenlua.testing" and not name.startswith("_")
    ]
    wanted += [error.__name__ for error in ERRORS]
    missing = [name for name in wanted if not re.search(rf"`{re.escape(name)}\b", page)]
    assert missing == []


def test_signatures_on_the_python_page_are_real() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text()
    for name in ("serve", "start"):
        shown = re.search(rf"`{name}\((.*?)\)`", page)
        assert shown is not None
        real = [
            {parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
            + parameter.name
            + ("" if parameter.default is parameter.empty else f"={parameter.default}")
            for parameter in inspect.signature(getattr(greenlua.testing, name)).parameters.values()
        ]
        assert shown[1] == ", ".join(real)


# ------------------------------------------------------------ links


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"{page.parent.name}-{page.name}"
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in readme] == []
