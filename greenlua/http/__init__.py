"""The HTTP/1.1 front: a fast, strict WSGI server on gevent, for any WSGI application.

`Handler` is a `handler_class` for gevent.pywsgi.WSGIServer; `Server` is a whole server; `Limits` bounds both;
`greenlua.http.gunicorn.Worker` is the gunicorn worker. Nothing here imports anything else of greenlua.
"""

from greenlua.http.handler import Handler
from greenlua.http.limits import Limits
from greenlua.http.server import Server

__all__ = ["Handler", "Limits", "Server"]
