"""Serves disconnects.lua in every way that notices a client that left: python disconnects.py (front | tls CERTIFICATE | pywsgi).

gunicorn takes ``disconnects:app``. /process shows what the process holds.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import gevent
from greenlet import greenlet

import greenlua

logging.basicConfig(level=logging.INFO)
app = greenlua.create_app(Path(__file__).with_name("disconnects.lua"))
parked = broken_off = 0


@app.expose
def park(seconds: float) -> None:
    global parked, broken_off
    parked += 1
    try:
        gevent.sleep(seconds)
    except gevent.GreenletExit:
        broken_off += 1
        raise
    finally:
        parked -= 1


class Process:
    def on_get(self, req: Any, resp: Any) -> None:
        gc.collect()
        resp.media = app.statistics() | {
            "parked": parked,
            "broken_off": broken_off,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(1 for one in gc.get_objects() if isinstance(one, greenlet)),
        }


app.falcon.add_route("/process", Process())

if __name__ == "__main__":
    if sys.argv[1] == "pywsgi":
        from gevent.pywsgi import WSGIServer

        server: Any = WSGIServer(("127.0.0.1", 0), app, log=None)
    else:
        from greenlua.http import Server

        tls = {"certfile": sys.argv[2]} if sys.argv[1] == "tls" else {}
        server = Server(("127.0.0.1", 0), app, limits=app.http_limits, **tls)
    server.start()
    gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(lambda: (server.stop(timeout=1), stopped.set())))
    stopped = gevent.event.Event()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    stopped.wait()
    app.stop(1)
