"""All settings, each with its default, its bounds and its meaning; and the places they are read from.

A setting has one name everywhere: keyword ``name=``, environment ``GREENLUA_NAME``, ``name`` in greenlua.toml or in
``[tool.greenlua]`` of pyproject.toml, ``--set name=value``. Later ones win in the order file, environment, keyword.
Unknown names are refused.
Building Settings does no work: no file is opened and no name resolved by the class itself. Uses errors.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from greenlua.errors import ConfigurationError

Seconds = Annotated[float, Meta(gt=0, le=86400)]
LuaName = Literal["5.4", "5.5", "5.3", "luajit"]
GlobalsRule = Literal["allow", "warn", "deny"]
UnknownFields = Literal["refuse", "drop"]
SecurityLevel = Literal["off", "basic", "strict"]


CODINGS = ("zstd", "br", "gzip")
MEMORY_MIN = 8388608  # what the smallest app needs, a few times over


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one app. Times are in seconds, sizes in bytes."""

    lua: Annotated[LuaName, Meta(description="which Lua runs the handlers: `5.4`, `5.5`, `5.3` or `luajit`")] = "5.4"
    batch_max: Annotated[
        int, Meta(ge=1, le=1024, description="requests that the Lua greenlet takes from the channel in one wake-up")
    ] = 32
    queue_capacity: Annotated[int, Meta(ge=1, le=65536, description="requests that wait for the Lua greenlet")] = 1024
    slots: Annotated[
        int, Meta(ge=1, le=65536, description="requests inside at once: queued, running or waiting for an operation")
    ] = 4096
    queue_timeout: Annotated[
        Seconds, Meta(description="how long a request waits for a place; then it is answered 503 with `Retry-After`")
    ] = 1.0
    request_timeout: Annotated[
        Seconds, Meta(description="how long a request may take from its place in the queue to its answer; then 504")
    ] = 30.0
    cpu_limit: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="processor time that Lua may take for a request without a pause; then it is stopped: 500. 0: no limit,"
            " and a handler that loops stops the server",
        ),
    ] = 1.0
    memory_limit: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="bytes that the Lua VM may hold, at least 8 MiB; the request that needs more is stopped: 500. 0: no limit",
        ),
    ] = 268435456
    sandbox: Annotated[
        bool,
        Meta(
            description="Lua gets no files, no processes and no look inside; off: all that Lua has, `io`, `os`, `debug` and"
            " bytecode, for code that you trust"
        ),
    ] = True
    max_body: Annotated[
        int, Meta(ge=0, le=2**30, description="the largest request body; a larger one is answered 413")
    ] = 1048576
    max_header: Annotated[
        int,
        Meta(ge=256, le=2**20, description="all header lines of a request together; more is answered 431 (HTTP front)"),
    ] = 32768
    max_header_count: Annotated[
        int, Meta(ge=1, le=10000, description="header lines of a request; more is answered 431 (HTTP front)")
    ] = 100
    max_target: Annotated[
        int, Meta(ge=16, le=65536, description="the longest request target; a longer one is answered 414 (HTTP front)")
    ] = 8192
    header_timeout: Annotated[
        Seconds, Meta(description="how long the head of a request may take as a whole; then 408 (HTTP front)")
    ] = 10.0
    body_timeout: Annotated[
        Seconds,
        Meta(
            description="credit for waiting on a request's body; received bytes earn it back at 500 a second; then 408"
            " (HTTP front)"
        ),
    ] = 30.0
    keepalive_timeout: Annotated[
        Seconds,
        Meta(description="how long a connection may be idle between two requests; then it is closed (HTTP front)"),
    ] = 75.0
    max_unsent: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="bytes of answers that wait for clients to read on, of all connections together; with more, who has"
            " read nothing for the longest time is cut off. 0: no limit (HTTP front)",
        ),
    ] = 268435456
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="addresses and networks of proxies whose `Forwarded`, `X-Forwarded-*` and PROXY lines count; `unix`"
            " is a peer on a Unix socket, `*` is anybody; as text, separated by commas (HTTP front)"
        ),
    ] = ()
    proxy_protocol: Annotated[
        bool, Meta(description="connections of `trusted_proxies` begin with a PROXY line, version 1 or 2 (HTTP front)")
    ] = False
    drain_timeout: Annotated[
        Seconds,
        Meta(description="how long a stopping server waits for the requests inside, what they deferred, and `on_stop`"),
    ] = 30.0
    max_stream_body: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="the largest body of a route with `stream_body = true`; 0: the same as `max_body`",
        ),
    ] = 0
    operations: Annotated[
        int,
        Meta(
            ge=1,
            le=65536,
            description="operations (exposed functions, http, sql...) performed at once; more wait for their turn",
        ),
    ] = 1024
    tasks: Annotated[
        int,
        Meta(ge=0, le=1000000, description="tasks made by `spawn`, `timeout` and `ctx:defer` that may exist at once"),
    ] = 10000
    http_timeout: Annotated[Seconds, Meta(description="how long a request of `greenlua.http` may take as a whole")] = (
        10.0
    )
    http_max_body: Annotated[int, Meta(ge=0, le=2**30, description="the largest answer that `greenlua.http` reads")] = (
        10485760
    )
    http_pool: Annotated[
        int, Meta(ge=1, le=10000, description="idle connections that `greenlua.http` keeps for each host")
    ] = 16
    http_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="the only hosts that `greenlua.http` may ask, as `api.example.org` or `*.example.org`; empty: all;"
            " as text, separated by commas"
        ),
    ] = ()
    http_deny: Annotated[
        tuple[str, ...], Meta(description="hosts that `greenlua.http` must not ask; goes before `http_allow`")
    ] = ()
    http_deny_private: Annotated[
        bool,
        Meta(
            description="`greenlua.http` refuses addresses that are not public (loopback, private, link-local...), judged"
            " after the name was resolved, on each redirect too"
        ),
    ] = False
    sql_url: Annotated[
        str,
        Meta(
            description="the database of `greenlua.sql`: `sqlite:///FILE`, relative to the app's folder, or"
            " `postgresql://USER:PASSWORD@HOST/NAME`"
        ),
    ] = "sqlite:///app.db"
    sql_pool: Annotated[int, Meta(ge=1, le=1000, description="connections to the database at most")] = 10
    sql_timeout: Annotated[
        Seconds, Meta(description="how long `greenlua.sql` waits for a connection, or for a lock of SQLite")
    ] = 10.0
    redis_url: Annotated[str, Meta(description="the server of `greenlua.redis`")] = "redis://127.0.0.1:6379/0"
    redis_pool: Annotated[int, Meta(ge=1, le=10000, description="connections to Redis at most")] = 50
    redis_timeout: Annotated[Seconds, Meta(description="how long a command of `greenlua.redis` may take")] = 5.0
    store_url: Annotated[
        str,
        Meta(
            description="where `greenlua.store` keeps its values: empty for this process's memory, or `redis://HOST:PORT/DB`"
            " to share them between processes and machines"
        ),
    ] = ""
    store_memory: Annotated[
        int,
        Meta(
            ge=1024,
            le=2**36,
            description="bytes that `greenlua.store` may hold in this process's memory; then it is full",
        ),
    ] = 67108864
    cache_memory: Annotated[
        int,
        Meta(
            ge=0,
            le=2**36,
            description="bytes that kept answers (the option `cache` of a route) may take; those used longest ago go first. 0: none"
            " is kept",
        ),
    ] = 67108864
    health_path: Annotated[
        str, Meta(description="the address that answers 200 while the process lives, without Lua; empty: none")
    ] = "/healthz"
    ready_path: Annotated[
        str,
        Meta(
            description="the address that answers 200 when a request would be served, else 503 with the reasons; empty: none"
        ),
    ] = "/readyz"
    watchdog: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="seconds that the event loop may stand still, because some code blocks it; then the process ends with"
            " status 70, so that its supervisor starts a new one; 0: never",
        ),
    ] = 10.0
    globals: Annotated[
        GlobalsRule,
        Meta(
            description="a handler that makes a new global: `allow` it, `warn` in the log at the first of each name, or `deny`"
            " it (an error). With `dev` on, `allow` becomes `warn`"
        ),
    ] = "allow"
    unknown_fields: Annotated[
        UnknownFields,
        Meta(
            description="fields of a body that its schema does not name: `refuse` the request (422), or `drop` them before the"
            " handler sees them"
        ),
    ] = "refuse"
    security_headers: Annotated[
        SecurityLevel,
        Meta(
            description="headers for browsers on every answer: `basic` (`X-Content-Type-Options: nosniff`), `strict` (all that"
            " fit an API, see errors.md), `off`; one that a handler sets itself wins"
        ),
    ] = "basic"
    compression: Annotated[
        tuple[str, ...],
        Meta(
            description="codings in which answers leave for clients that take them, in order of preference, of `zstd`, `br` and"
            " `gzip`; empty: none; as text, separated by commas"
        ),
    ] = ()
    compression_min: Annotated[
        int, Meta(ge=1, le=2**30, description="the smallest body that is compressed; below, it hardly pays")
    ] = 1024
    dev: Annotated[bool, Meta(description="development: failures are shown to the client with their Lua traceback")] = (
        False
    )


NAMES: tuple[str, ...] = Settings.__struct_fields__
_OPTIONS = ("host", "port", "bind", "certfile", "keyfile", "workers", "server", "quiet")
_ENVIRONMENT_PREFIX = "GREENLUA_"
# What Kubernetes gives every container when a Service has the name greenlua.
_KUBERNETES = re.compile(r"GREENLUA_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def load_settings(folder: Path | None = None, environ: Mapping[str, str] | None = None, **keywords: Any) -> Settings:
    """Settings from the file in ``folder``, the environment and keywords.

    Args:
        folder: where greenlua.toml, or else pyproject.toml with ``[tool.greenlua]``, is looked for; None: no file.
        environ: the environment; ``os.environ`` by default.
        keywords: settings by name; text is read as the setting's type, as in the environment.

    Raises:
        ConfigurationError: names the setting, where it stands, what it takes, and for an unknown name the nearest known one.
    """
    values: dict[str, Any] = {}
    if folder is not None:
        values.update(_from_file(folder))
    for key, text in (os.environ if environ is None else environ).items():
        if key.startswith(_ENVIRONMENT_PREFIX) and not _KUBERNETES.fullmatch(key):
            name = key.removeprefix(_ENVIRONMENT_PREFIX).lower()
            values[name] = _convert(name, text, f"the environment variable {key}")
    for name, value in keywords.items():
        values[name] = _convert(name, value, "settings")
    return Settings(**values)


def _from_file(folder: Path) -> dict[str, Any]:
    for filename, table in (("greenlua.toml", ()), ("pyproject.toml", ("tool", "greenlua"))):
        path = folder / filename
        try:
            with path.open("rb") as file:
                content: Any = tomllib.load(file)
        except FileNotFoundError:
            continue
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        for key in table:
            content = content.get(key) if isinstance(content, dict) else None
        if content is None:
            continue
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: [{'.'.join(table)}] must be a table")
        return {name: _convert(name, value, str(path)) for name, value in content.items()}
    return {}


def _convert(name: str, value: Any, where: str) -> Any:
    if name not in _TYPES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else "the settings are " + ", ".join(NAMES)
        if name in _OPTIONS:
            hint = f"it is an option of the command: greenlua run --{name}"
        elif name == "tool":
            hint = "in greenlua.toml settings stand at the top, without a table"
        raise ConfigurationError(f"{where}: there is no setting {name!r}; {hint}")
    try:
        if name == "trusted_proxies":
            return _networks(value)
        if name == "compression":
            return _codings(value)
        if _TYPES[name] in _LISTS:
            return _entries(value)
        converted = msgspec.convert(value, _TYPES[name], strict=not isinstance(value, str))
        if name in ("health_path", "ready_path") and converted and not converted.startswith("/"):
            raise msgspec.ValidationError("it must begin with /, or be empty")
        if name == "memory_limit" and 0 < converted < MEMORY_MIN:
            raise msgspec.ValidationError(f"expected 0 or an integer >= {MEMORY_MIN}")
        return converted
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {name} cannot be {value!r}: {_reason(name, str(error))}") from None


def _entries(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(entry.strip() for entry in msgspec.convert(parts, tuple[str, ...]) if entry.strip())


def _networks(value: Any) -> tuple[str, ...]:
    entries = _entries(value)
    for entry in entries:
        if entry not in ("unix", "*"):
            try:
                ipaddress.ip_network(entry, strict=False)
            except ValueError as error:
                raise msgspec.ValidationError(str(error)) from None
    return entries


def _codings(value: Any) -> tuple[str, ...]:
    entries = _entries(value)
    for entry in entries:
        if entry not in CODINGS:
            raise msgspec.ValidationError(f"there is no coding {entry!r}; the codings are {', '.join(CODINGS)}")
        if entries.count(entry) > 1:
            raise msgspec.ValidationError(f"{entry} is in it twice")
    return entries


def _reason(name: str, message: str) -> str:
    kind = get_args(_TYPES[name])[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        return "it is one of " + ", ".join(choices)
    for word, meaning in (
        ("`int`", "an integer"),
        ("`float`", "a number"),
        ("`bool`", "true or false"),
        ("`str`", "text"),
    ):
        message = message.replace(word, meaning)
    message = message.removesuffix(", got text")  # all that comes from outside is text
    return message[0].lower() + message[1:]


_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
_LISTS = [hint for hint in _TYPES.values() if get_args(hint)[0] == tuple[str, ...]]
