"""Settings: one name everywhere, clear errors, later places win."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenlua.app import create_app
from greenlua.errors import ConfigurationError
from greenlua.http import Limits
from greenlua.settings import NAMES, Settings, load_settings

LIMITS = [
    field.name for field in fields(Limits) if field.name in NAMES
]  # `LuaApp.http_limits` takes them by their names

BAD = [
    ({"slotz": 1}, "there is no setting 'slotz'; did you mean slots?"),
    ({"zzz": 1}, "the settings are lua, batch_max"),
    ({"slots": "many"}, "slots cannot be 'many': expected an integer"),
    ({"slots": 0}, "slots cannot be 0: expected an integer >= 1"),
    ({"slots": 1.5}, "slots cannot be 1.5: expected an integer"),
    ({"slots": True}, "slots cannot be True: expected an integer"),
    ({"lua": "6.0"}, "lua cannot be '6.0': it is one of 5.4, 5.5, 5.3, luajit"),
    ({"globals": "maybe"}, "it is one of allow, warn, deny"),
    ({"dev": "perhaps"}, "dev cannot be 'perhaps': expected true or false"),
    ({"queue_timeout": 0}, "expected a number > 0"),
    ({"queue_timeout": "nan"}, "queue_timeout cannot be 'nan'"),
]


@pytest.mark.parametrize(("keywords", "sentence"), BAD, ids=[next(iter(row[0])) for row in BAD])
def test_a_wrong_setting_is_named_with_what_it_takes(keywords: dict, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, **keywords)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("settings: ")


def test_text_is_read_as_the_settings_type() -> None:
    settings = load_settings(environ={}, slots="7", queue_timeout="0.5", dev="true", lua="luajit")
    assert (settings.slots, settings.queue_timeout, settings.dev, settings.lua) == (7, 0.5, True, "luajit")


def test_an_environment_variable_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"the environment variable GREENLUA_SLOTZ: .* did you mean slots"):
        load_settings(environ={"GREENLUA_SLOTZ": "1"})


def test_what_kubernetes_injects_for_a_service_named_greenlua_is_no_setting() -> None:
    names = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"]
    assert load_settings(environ={f"GREENLUA_{name}": "tcp://10.0.0.1:8000" for name in names}) == Settings()


def test_file_environment_and_keywords_win_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "greenlua.toml").write_text("slots = 1\nbatch_max = 1\nqueue_capacity = 1\n")
    environ = {"GREENLUA_BATCH_MAX": "2", "GREENLUA_QUEUE_CAPACITY": "2", "HOME": "/"}
    settings = load_settings(tmp_path, environ, queue_capacity=3)
    assert (settings.slots, settings.batch_max, settings.queue_capacity) == (1, 2, 3)


def test_pyproject_is_read_when_there_is_no_greenlua_toml(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n[tool.greenlua]\nslots = 9\n")
    assert load_settings(tmp_path, {}).slots == 9


def test_a_pyproject_without_a_table_for_us_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n")
    assert load_settings(tmp_path, {}) == Settings()


@pytest.mark.parametrize(
    ("filename", "text"),
    [
        ("greenlua.toml", "slots = \n"),
        ("greenlua.toml", "slotz = 1\n"),
        ("greenlua.toml", "slots = '1x'\n"),
        ("greenlua.toml", "lua = 5.4\n"),
        ("pyproject.toml", "[tool]\ngreenlua = 1\n"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, filename: str, text: str) -> None:
    (tmp_path / filename).write_text(text)
    with pytest.raises(ConfigurationError, match=str(tmp_path / filename)):
        load_settings(tmp_path, {})


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().slots = 1  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    schema = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    assert set(schema) == set(NAMES)
    assert all(schema[name].get("description") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_used_somewhere(name: str) -> None:
    package = Path(__file__).parent.parent / "greenlua"
    sources = [path.read_text() for path in package.rglob("*.py") if path.name != "settings.py"]
    assert name in LIMITS or any(f"settings.{name}" in source for source in sources)


@pytest.mark.parametrize("name", LIMITS)
def test_settings_of_the_http_front_reach_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "app.lua").write_text("")
    before: Any = getattr(Settings(), name)
    value = not before if isinstance(before, bool) else ("10.0.0.1",) if isinstance(before, tuple) else 2 * before
    changed = {name: value, "max_stream_body": 0} if name == "max_body" else {name: value}
    assert getattr(create_app(tmp_path / "app.lua", **changed).http_limits, name) == value
