"""The servers that compare.py measures: how each is started in its natural best form, and whether it is there to be started.

One process or one worker each, no access log, keep-alive without end. Uses measure.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from loadtests.measure import SERVER_CORE, pinned

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "loadtests" / "peers"
NGINX_MODULES = "/usr/lib/nginx/modules"
# However this process ends: else a server would stay on its core, and spoil all that is measured later.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


class StartError(Exception):
    """A server did not come up; says what it wrote."""


@dataclass(frozen=True)
class Peer:
    """A kind of server.

    Attributes:
        command: what to run, for a port and a folder of its own.
        needs: Python packages, and files by their absolute paths, without which it cannot run.
        install: what to say when one of them is missing.
        lacks: cases that it has not.
        environ: more of the environment.
    """

    name: str
    command: Callable[[int, Path], Sequence[str]]
    needs: tuple[str, ...] = ()
    install: str = "pip install -e '.[bench]'"
    lacks: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()

    def missing(self) -> str | None:
        """Why it cannot be started here; None when it can."""
        for need in self.needs:
            there = os.path.exists(need) if need.startswith("/") else find_spec(need)
            if not there:
                return f"{need} is missing ({self.install})"
        return None


def _greenlua(*options: str) -> Callable[[int, Path], Sequence[str]]:
    return lambda port, _: [
        *_python("greenlua", "run"),
        str(PEERS / "app.lua"),
        "--port",
        str(port),
        "--quiet",
        *options,
    ]


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _gunicorn(app: str) -> Callable[[int, Path], Sequence[str]]:
    options = ["-k", "gevent", "-w", "1", "--worker-connections", "16384", "--backlog", "4096", "--log-level", "error"]
    return lambda port, _: _python("gunicorn", *options, "-b", f"127.0.0.1:{port}", app)


def _nginx(port: int, folder: Path) -> Sequence[str]:
    text = (PEERS / "nginx.conf").read_text().replace("PORT", str(port)).replace("FOLDER", str(folder))
    (folder / "nginx.conf").write_text(text.replace("modules/", f"{NGINX_MODULES}/"))
    return ["/usr/sbin/nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def _granian(port: int, _: Path) -> Sequence[str]:
    options = ["--interface", "wsgi", "--workers", "1", "--blocking-threads", "64", "--backlog", "4096", "--no-ws"]
    return _python(
        "granian", *options, "--no-access-log", "--log-level", "error", "--port", str(port), "falcon_app:app"
    )


def _uwsgi(port: int, _: Path) -> Sequence[str]:
    # With threads, each of which has one connection: uWSGI's gevent loop does not run on this gevent.
    options = [
        "--threads",
        "64",
        "--thunder-lock",
        "--listen",
        "1024",
        "--disable-logging",
        "--die-on-term",
        "--master",
    ]
    home = [] if sys.prefix == sys.base_prefix else ["--virtualenv", sys.prefix]
    address = ["--http11-socket", f"127.0.0.1:{port}", "--add-header", "Connection: keep-alive", "--http-keepalive"]
    return [_UWSGI, *address, "--module", "falcon_app:app", *options, *home]


def _uvicorn(port: int, _: Path) -> Sequence[str]:
    options = [
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--backlog",
        "4096",
        "--no-access-log",
        "--log-level",
        "error",
    ]
    return _python("uvicorn", *options, "--port", str(port), "fastapi_app:app")


_UWSGI = str(Path(sys.executable).with_name("uwsgi"))
_FALCON = ("falcon", "gevent", "msgspec")
_MANY = ("connections-1000", "connections-5000")

ALL = (
    Peer("greenlua", _greenlua()),
    Peer("greenlua-luajit", _greenlua("--set", "lua=luajit")),
    Peer(
        "naive",
        lambda port, _: [sys.executable, str(PEERS / "naive.py"), str(port)],
        lacks=("wait-10ms",),
    ),
    Peer(
        "nginx-lua",
        _nginx,
        ("/usr/sbin/nginx", f"{NGINX_MODULES}/ngx_http_lua_module.so"),
        "apt-get install nginx-light libnginx-mod-http-lua lua-cjson",
    ),
    Peer("granian-falcon", _granian, ("granian", *_FALCON), environ=(("FLAVOR", "threads"),)),
    Peer(
        "pywsgi-falcon",
        lambda port, _: [sys.executable, str(PEERS / "falcon_app.py"), str(port)],
        _FALCON,
        lacks=("routes-10000",),
    ),
    Peer("gunicorn-falcon", _gunicorn("falcon_app:app"), ("gunicorn", *_FALCON)),
    Peer("uwsgi-falcon", _uwsgi, (_UWSGI, *_FALCON), lacks=_MANY, environ=(("FLAVOR", "threads"),)),
    Peer("gunicorn-flask", _gunicorn("flask_app:app"), ("gunicorn", "flask", "gevent")),
    Peer("uvicorn-fastapi", _uvicorn, ("uvicorn", "uvloop", "httptools", "fastapi")),
)
BY_NAME = {peer.name: peer for peer in ALL}


class Running:
    """A server that runs, pinned to its core.

    Raises:
        StartError: it ended, or did not listen within ``timeout`` seconds.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int, Path], Sequence[str]],
        folder: Path,
        environ: dict[str, str],
        timeout: float = 60,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.port = free_port()
        self._log = folder / "log"
        path = os.pathsep.join([str(ROOT), str(PEERS), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*pinned(SERVER_CORE), *ENDS_WITH_US, *command(self.port, folder)],
                cwd=PEERS,
                env={**os.environ, **environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(timeout)
        except BaseException:
            self.stop()
            raise

    def _wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                pass
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                why = "ended" if ended else f"did not listen within {timeout:g} seconds"
                raise StartError(f"{self.name} {why}:\n{self.log}")
            time.sleep(0.05)

    @property
    def log(self) -> str:
        """What it has written, the end of it."""
        return self._log.read_text(errors="replace")[-4000:]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(self, method: str, path: str, body: str, headers: Sequence[str]) -> tuple[int, bytes]:
        """Status and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, dict(header.split(": ", 1) for header in headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends it and all that it started, which is in a session of its own."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                self.process.wait()
                return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
