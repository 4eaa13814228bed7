"""The command line: ``greenlua run | check | routes | openapi``.

The only place, with gunicorn's worker, that monkey-patches; so it imports gevent and the app inside its commands.
What is wrong with the app or a setting is one message on stderr and exit status 2.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import greenlua
from greenlua.errors import ConfigurationError, GreenluaError

if TYPE_CHECKING:
    from greenlua.app import LuaApp
    from greenlua.run import Listener

APP = click.argument("app", metavar="APP.LUA")
SET = click.option(
    "--set", "pairs", metavar="NAME=VALUE", multiple=True, help="A setting (docs/settings.md); may be repeated."
)
EXTEND = click.option(
    "--extend",
    "extensions",
    metavar="MODULE[:FUNCTION]",
    multiple=True,
    help="Python that extends the app before it is loaded: FUNCTION(app) is called, by default setup(app); may be repeated.",
)


class _Wrong(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"greenlua: {self.message}", file=sys.stderr)


class _Commands(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and args[0].endswith(".lua"):
            raise _Wrong(f"there is no command {args[0]!r}; did you mean: greenlua run {args[0]}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands)
@click.version_option(greenlua.__version__, prog_name="greenlua", message="%(prog)s %(version)s")
def main() -> None:
    """Serve HTTP APIs whose handlers are written in Lua."""


@main.command()
@APP
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 picks a free one."
)
@click.option("--bind", metavar="unix:PATH", help="A Unix socket to listen on, in place of host and port.")
@click.option("--certfile", type=click.Path(exists=True, dir_okay=False), help="TLS: the certificate chain, PEM.")
@click.option("--keyfile", type=click.Path(exists=True, dir_okay=False), help="TLS: its key, if not in the same file.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    envvar="WEB_CONCURRENCY",
    type=click.IntRange(1, 1024),
    help="Processes, under gunicorn when more than 1; each has a Lua VM of its own.",
)
@click.option(
    "--server",
    default="front",
    show_default=True,
    type=click.Choice(["front", "pywsgi"]),
    help="greenlua's HTTP front, or gevent's own server.",
)
@click.option(
    "--access-log",
    default="common",
    show_default=True,
    type=click.Choice(["common", "combined", "json"]),
    help="Form of the access log on stdout.",
)
@click.option("--quiet", is_flag=True, help="No access log.")
@click.option(
    "--dev",
    count=True,
    help="Development: show failures to the client, report stray globals. Only for this machine, unless given twice.",
)
@click.option(
    "--reload", is_flag=True, help="Reload when a Lua file in the app's folder changes; SIGHUP does in any case."
)
@EXTEND
@SET
def run(
    app: str,
    dev: int,
    reload: bool,
    quiet: bool,
    workers: int,
    server: str,
    extensions: tuple[str, ...],
    pairs: tuple[str, ...],
    **options: Any,
) -> None:
    """Serve APP.LUA until Ctrl-C or SIGTERM; then finish the requests inside and exit."""
    settings = _settings(pairs, dev > 0)
    access_log = None if quiet else options["access_log"]
    if options["keyfile"] and not options["certfile"]:
        raise _Wrong("--keyfile needs --certfile")
    if server == "pywsgi":
        for name, given in (
            ("--workers", workers > 1),
            ("--bind", options["bind"] is not None),
            ("--access-log", access_log not in (None, "common")),
        ):
            if given:
                raise _Wrong(f"{name} goes with the HTTP front only: leave --server pywsgi out")
    if reload and find_spec("watchfiles") is None:
        raise _Wrong("--reload needs watchfiles: pip install 'greenlua[reload]'")
    if workers > 1:
        if find_spec("gunicorn") is None:
            raise _Wrong("--workers needs gunicorn: pip install 'greenlua[gunicorn]'")
        _check_elsewhere(app, extensions, pairs)
    from gevent import monkey

    monkey.patch_all()
    from greenlua.run import Listener, run_here, run_workers

    listener = Listener(
        options["host"], options["port"], _unix(options["bind"]), options["certfile"], options["keyfile"]
    )
    lua_app = _create(app, settings, extensions)
    try:
        listener.check(lua_app.settings, dev_anywhere=dev > 1)
        if workers > 1:
            run_workers(lua_app, listener, workers, access_log, reload)
        run_here(lua_app, listener, server == "pywsgi", access_log, reload)
    except ConfigurationError as error:
        raise _Wrong(str(error)) from None
    except OSError as error:
        raise _Wrong(_why_not(listener, error)) from None


def _why_not(listener: Listener, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        key = "" if listener.keyfile else "; its key may stand in the same file or be named with --keyfile"
        return f"{listener.certfile} cannot be used as a certificate with its key: {error.reason or error}{key}"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {listener.where}: {error.strerror}"
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "; choose another with --port" if error.errno == errno.EADDRINUSE and listener.unix is None else ""
    return f"cannot listen on {listener.where}: {reason}{hint}"


def _unix(bind: str | None) -> str | None:
    if bind is None:
        return None
    if not bind.startswith("unix:") or bind == "unix:":
        raise _Wrong(f"--bind takes unix:PATH, not {bind!r}; for TCP give --host and --port")
    return bind.removeprefix("unix:")


def _check_elsewhere(app: str, extensions: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    """Loads the app in a process of its own: the one that forks the workers must stay without a VM."""
    arguments = [word for pair in pairs for word in ("--set", pair)]
    arguments += [word for extension in extensions for word in ("--extend", extension)]
    result = subprocess.run(
        [sys.executable, "-m", "greenlua", "check", app, *arguments], stdout=subprocess.DEVNULL, check=False
    )
    if result.returncode:
        sys.exit(result.returncode)


@main.command()
@APP
@EXTEND
@SET
def check(app: str, extensions: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    """Load APP.LUA and say whether it would serve."""
    lua_app = _load(app, _settings(pairs), extensions)
    routes = len(lua_app.table.routes)
    click.echo(f"{app}: ok, {routes} route{'' if routes == 1 else 's'}, Lua {lua_app.settings.lua}")


@main.command()
@APP
@EXTEND
@SET
def routes(app: str, extensions: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    """Print the routes of APP.LUA: methods, template, place of the handler."""
    table = _load(app, _settings(pairs), extensions).table
    rows = [("METHODS", "TEMPLATE", "HANDLER")]
    rows += [(",".join(route.methods), route.template, route.handler_place) for route in table.routes]
    rows += [("GET,HEAD", constant.path, f"constant, {constant.place}") for constant in table.constants]
    rows += [("GET,HEAD", f"{rule.prefix}/...", f"files of {rule.folder}, {rule.place}") for rule in table.statics]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row in rows:
        click.echo(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")


@main.command()
@APP
@click.option(
    "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Where to write it, in place of stdout."
)
@EXTEND
@SET
def openapi(app: str, output: str | None, extensions: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    """Print the OpenAPI document of APP.LUA, as JSON."""
    lua_app = _load(app, _settings(pairs), extensions)
    text = json.dumps(lua_app.openapi(), indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
        return
    try:
        Path(output).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise _Wrong(f"{output} cannot be written: {error.strerror}") from None


def _settings(pairs: tuple[str, ...], dev: bool = False) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise _Wrong(f"--set takes NAME=VALUE, not {pair!r}")
        settings[name] = value
    if dev:
        settings["dev"] = True
    return settings


def _create(path: str, settings: dict[str, Any], extensions: tuple[str, ...]) -> LuaApp:
    """The app, extended but not loaded."""
    from greenlua.app import create_app

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        app = create_app(path, **settings)
        for extension in extensions:
            _extend(app, extension)
    except ConfigurationError as error:
        raise _Wrong(str(error)) from None
    return app


def _extend(app: LuaApp, extension: str) -> None:
    """Calls ``function(app)`` of a module that stands in the current folder or is installed."""
    name, _, attribute = extension.partition(":")
    attribute = attribute or "setup"
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if name.endswith(".py") or "/" in name:
        raise _Wrong(f"--extend takes the name of a module, not a file: {Path(name).stem}, not {name}")
    try:
        module = import_module(name)
        function = getattr(module, attribute, None)
        if not callable(function):
            raise _Wrong(f"--extend {extension}: the module {name} has no function {attribute}(app)")
        function(app)
    except (GreenluaError, click.ClickException):
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0]):
            where = f"in {os.getcwd()} or installed"
            raise _Wrong(f"--extend {extension}: there is no module {error.name!r} {where}") from None
        frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
        theirs = [frame for frame in frames if "importlib" not in frame.filename]
        lines = "".join(traceback.format_list(theirs) + traceback.format_exception_only(error))
        raise _Wrong(f"--extend {extension} failed:\n{lines.rstrip()}") from None


def _load(path: str, settings: dict[str, Any], extensions: tuple[str, ...]) -> LuaApp:
    app = _create(path, settings, extensions)
    try:
        app.load()
    except ConfigurationError as error:
        raise _Wrong(str(error)) from None
    return app
