"""The command line: ``greenlua run | check | routes``.

The only place, with gunicorn's worker, that monkey-patches; so it imports gevent and the app inside its commands.
What is wrong with the app or a setting is one message on stderr and exit status 2.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

import greenlua
from greenlua.errors import ConfigurationError

if TYPE_CHECKING:
    from greenlua.app import LuaApp

APP = click.argument("app", metavar="APP.LUA")
SET = click.option(
    "--set", "pairs", metavar="NAME=VALUE", multiple=True, help="A setting (docs/settings.md); may be repeated."
)


class _Wrong(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"greenlua: {self.message}", file=sys.stderr)


@click.group()
@click.version_option(greenlua.__version__, prog_name="greenlua", message="%(prog)s %(version)s")
def main() -> None:
    """Serve HTTP APIs whose handlers are written in Lua."""


@main.command()
@APP
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 picks a free one."
)
@click.option("--dev", is_flag=True, help="Development: show failures to the client, report stray globals.")
@SET
def run(app: str, host: str, port: int, dev: bool, pairs: tuple[str, ...]) -> None:
    """Serve APP.LUA until Ctrl-C or SIGTERM; then finish the requests inside and exit."""
    from gevent import monkey

    monkey.patch_all()
    from gevent.event import Event

    from greenlua.server import Server

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    lua_app = _load(app, pairs, dev)
    server = Server((host, port), lua_app)
    try:
        server.start()
    except OSError as error:
        raise _Wrong(f"cannot listen on {host}:{port}: {error.strerror}") from None
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"greenlua: serving {app} on http://{shown}:{server.server_port} (Ctrl-C stops)")
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    timeout = lua_app.settings.drain_timeout
    drained = server.drain(timeout)
    lua_app.stop(0.1 if drained else 0)
    if not drained:
        click.echo(f"greenlua: stopped with requests unanswered after {timeout:g} seconds", err=True)


@main.command()
@APP
@SET
def check(app: str, pairs: tuple[str, ...]) -> None:
    """Load APP.LUA and say whether it would serve."""
    lua_app = _load(app, pairs)
    routes = len(lua_app.table.routes)
    click.echo(f"{app}: ok, {routes} route{'' if routes == 1 else 's'}, Lua {lua_app.settings.lua}")


@main.command()
@APP
@SET
def routes(app: str, pairs: tuple[str, ...]) -> None:
    """Print the routes of APP.LUA: methods, template, place of the handler."""
    rows = [("METHODS", "TEMPLATE", "HANDLER")]
    rows += [(",".join(route.methods), route.template, route.handler_place) for route in _load(app, pairs).table.routes]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row in rows:
        click.echo(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")


def _load(path: str, pairs: tuple[str, ...], dev: bool = False) -> LuaApp:
    from greenlua.app import create_app

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise _Wrong(f"--set takes NAME=VALUE, not {pair!r}")
        settings[name] = value
    if dev:
        settings["dev"] = True
    try:
        app = create_app(path, **settings)
        app.start()
    except ConfigurationError as error:
        raise _Wrong(str(error)) from None
    return app
