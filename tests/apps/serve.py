"""Serves a Lua file in ways that are not the command line: python serve.py (pywsgi | flask | waitress | wsgiref) APP.LUA.

Prints its address when it is ready. /statistics, added to the Falcon app from Python, shows the app's figures.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

WAY, PATH = sys.argv[1], sys.argv[2]

if WAY in ("pywsgi", "flask"):
    from gevent import monkey

    monkey.patch_all()

import greenlua  # noqa: E402 (the servers patch first)

logging.basicConfig(level=logging.INFO)
app = greenlua.create_app(PATH)


if WAY in ("pywsgi", "flask"):

    @app.expose("echo")
    def echo(value: Any) -> Any:
        from gevent import sleep

        sleep(0.001)
        return value


class Statistics:
    def on_get(self, req: Any, resp: Any) -> None:
        resp.media = app.statistics()


app.falcon.add_route("/statistics", Statistics())


class Replaces:
    """Middleware that puts another answer in the place of a stream, where the query asks for it."""

    def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
        if req.get_param("replace"):
            resp.stream, resp.text = None, "replaced"


if PATH.endswith("streams.lua"):
    app.falcon.add_middleware(Replaces())


def announce(port: int) -> None:
    print(f"http://127.0.0.1:{port}", flush=True)


def by_gevent(application: Any) -> None:
    import gevent
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    gevent.signal_handler(signal.SIGTERM, server.stop)
    announce(server.server_port)
    server.serve_forever()
    app.stop(1)


if WAY == "pywsgi":
    by_gevent(app)
elif WAY == "flask":
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    flask_app = Flask(__name__)

    @flask_app.get("/flask")
    def flask_route() -> str:
        return "from Flask"

    by_gevent(DispatcherMiddleware(flask_app, {"/lua": app}))
elif WAY == "waitress":
    import waitress

    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=4)
    announce(server.effective_port)
    server.run()
elif WAY == "wsgiref":
    from wsgiref.simple_server import make_server

    single = make_server("127.0.0.1", 0, app)
    announce(single.server_port)
    single.serve_forever()
