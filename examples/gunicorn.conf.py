"""greenlua under gunicorn.

    gunicorn -c examples/gunicorn.conf.py 'greenlua:create_app("examples/hello.lua")'

BIND     where to listen (127.0.0.1:8000; port 0 picks a free one, which the log names)
WORKERS  processes (1). Each has a Lua VM of its own: what Lua keeps in globals is not shared between them.
"""

import os
import sys

from greenlua import ConfigurationError

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WORKERS", "1"))
worker_class = "gevent"  # greenlua runs on gevent; a threaded worker would be answered with 500
worker_connections = 4096  # as many as greenlua has slots
graceful_timeout = 30


def post_worker_init(worker):
    """Loads the Lua app before the worker takes requests: a broken one stops the boot, with its file and line in the log.

    gunicorn calls this in the worker, after the fork and after patching, so it is right with `preload_app` too.
    """
    try:
        worker.wsgi.start()
    except ConfigurationError as error:
        worker.log.error("%s", error)
        sys.exit(4)  # gunicorn's "App failed to load": the master ends instead of trying again for ever


def worker_exit(server, worker):
    """Runs what the Lua app declares with app:on_stop, when the last request of this worker has been answered."""
    worker.wsgi.stop(timeout=5)
