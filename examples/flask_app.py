"""A Flask app with a Lua app mounted under /lua, in one process, served by gevent.

    python examples/flask_app.py            # or: python examples/flask_app.py 0      (0 picks a free port)
    curl http://127.0.0.1:8000/             # answered by Flask
    curl http://127.0.0.1:8000/lua/hello/World

Under gunicorn: gunicorn -k gevent examples.flask_app:app
"""

if __name__ == "__main__":
    # A script patches for itself, and before it imports anything else. gunicorn's worker does it on its own.
    from gevent import monkey

    monkey.patch_all()

import os
import socket
import sys
from pathlib import Path

from flask import Flask
from gevent.pywsgi import WSGIServer
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import greenlua

lua = greenlua.create_app(Path(__file__).with_name("hello.lua"))
app = Flask(__name__)


@app.get("/")
def index() -> str:
    return "Hello from Flask. Lua is at /lua/hello/World\n"


@app.get("/statistics")
def statistics() -> dict[str, dict[str, int]]:
    return lua.statistics()


# Flask answers everything but /lua, which goes straight to the Lua app: Flask's own routing never sees it.
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/lua": lua})  # type: ignore[method-assign]


def main() -> None:
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "8000"))
    lua.start()  # a broken Lua app ends the script here, and not the first request
    listener = socket.create_server(("127.0.0.1", port))
    # Accepted connections inherit it. Without it answers on a kept connection wait 40 ms for the client's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = WSGIServer(listener, app, log=None)
    server.start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
