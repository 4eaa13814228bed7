"""The house: which file may import which, who may import lupa, who may patch, and how long a file may be."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "greenlua"

# In dependency order: a file may import only from files above it. Its outside libraries stand beside it.
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"msgspec"},
    "security": set(),
    "messages": {"msgspec", "gevent"},
    "reports": set(),
    "routes": set(),
    "openapi": set(),
    "disconnects": {"gevent"},
    "results": {"gevent"},
    "slots": {"gevent"},
    "channel": {"gevent"},
    "meter": {"gevent"},
    "memory": set(),
    "modules": set(),
    "vm": {"lupa", "msgspec"},
    "fields": {"falcon", "msgspec"},
    "explanations": {"msgspec"},
    "filling": set(),
    "schemas": {"jsonschema_rs", "msgspec"},
    "texts": set(),
    "wire": {"msgspec"},
    "marshal": set(),
    "operations": {"gevent", "greenlet"},
    "bodies": set(),
    "streams": {"gevent"},
    "dispatcher": {"gevent"},
    "background": {"gevent"},
    "clients": set(),
    "router": {"falcon"},
    "conditional": set(),
    "codings": set(),
    "files": set(),
    "answers": {"msgspec"},
    "compression": {"gevent"},
    "inline": set(),
    "documentation": {"msgspec"},
    "contract": {"msgspec"},
    "cache_rule": set(),
    "cache_store": {"msgspec"},
    "cache_flights": {"gevent"},
    "cache": set(),
    "cache_route": {"gevent"},
    "purges": {"gevent"},
    "resource": {"falcon"},
    "static": {"falcon"},
    "falcon_app": {"falcon"},
    "exposing": set(),
    "serving": {"gevent"},
    "lifecycle": {"gevent"},
    "watchdog": {"gevent"},
    "health": set(),
    "app": {"falcon", "gevent"},
    "server": {"gevent"},
    "watching": {"gevent", "watchfiles"},
    "run": {"click", "gevent", "gunicorn"},
    "cli": {"click", "gevent"},
    "__main__": set(),
    "testing": {"falcon"},
}
LINES_MAX = 400


def imports_of(path: Path) -> set[str]:
    """Full names of what a file imports, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names.add(node.module or "")
    return names


def modules() -> list[str]:
    return sorted([*(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"), "clients"])


def test_every_file_has_its_row() -> None:
    assert modules() == sorted(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_a_file_imports_only_from_rows_above_it(name: str) -> None:
    above = list(LAYERS)[: list(LAYERS).index(name)]
    path = PACKAGE / ("clients/__init__.py" if name == "clients" else f"{name}.py")
    # messages names the slot's type for readers; nothing of it exists at run time.
    typing_only = {"messages": {"greenlua.slots", "greenlua.streams"}}.get(name, set())
    for imported in imports_of(path) - typing_only:
        package, _, rest = imported.partition(".")
        if package == "greenlua":
            # The HTTP front stands by itself: it knows nothing of the rest (tests/http/test_http_layers.py).
            assert not rest or rest in above or rest.partition(".")[0] == "http", f"{name} imports {imported}"
        elif package not in sys.stdlib_module_names:
            assert package in LAYERS[name], f"{name} imports {imported}"


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("clients/*.py")), ids=lambda path: path.stem)
def test_a_client_knows_nothing_of_what_serves(path: Path) -> None:
    for imported in imports_of(path):
        package, _, rest = imported.partition(".")
        if package == "greenlua":
            allowed = rest in ("", "errors", "settings", "marshal") or rest.startswith("clients")
            assert allowed, f"{path.name} imports {imported}"


def test_only_vm_knows_lupa() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"\blupa\.", path.read_text())}
    assert users == {"vm.py"}


def test_only_the_dispatcher_drives_a_vm() -> None:
    verbs = re.compile(r"_vm\.(start|resume|take|cancel|arguments)\(")
    users = {path.name for path in PACKAGE.rglob("*.py") if verbs.search(path.read_text())}
    assert users == {"dispatcher.py"}


def test_only_the_command_line_patches() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if "patch_all(" in path.read_text()}
    assert users == {"cli.py"}


def test_importing_the_package_loads_neither_gevent_nor_lupa() -> None:
    import subprocess

    code = "import greenlua, sys; sys.exit(any(name in sys.modules for name in ('gevent', 'lupa', 'falcon')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.lua")]), ids=lambda path: path.name)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_the_prelude_uses_only_what_stands_above_it() -> None:
    """Each Lua file names the prelude files it uses as prelude.NAME; PRELUDE in vm.py is their order."""
    from greenlua.vm import PRELUDE

    for position, name in enumerate(PRELUDE):
        source = (PACKAGE / "lua" / f"{name}.lua").read_text()
        # limits is looked up when a bounded function runs, and may be absent.
        used = set(re.findall(r"\bprelude\.(\w+)", source)) - {"getmetatable", "limits"}
        assert used <= set(PRELUDE[:position]), f"{name}.lua uses {used - set(PRELUDE[:position])}"
    files = {path.stem for path in (PACKAGE / "lua").glob("*.lua") if not path.name.endswith(".d.lua")}
    assert files == set(PRELUDE)
