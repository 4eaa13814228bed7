"""``greenlua run`` in all its ways: workers, Unix socket, TLS, access log, gevent's own server."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from greenlua.testing import ServerProcess, serve
from tests.servers import EVERYTHING, Site
from tests.test_cli import HELLO, run


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one PEM file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path.with_suffix(".crt"))],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def wait_until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(server: ServerProcess) -> list[int]:
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_workers_are_processes_that_share_the_port_and_stop_with_the_master() -> None:
    with serve(EVERYTHING, "--workers", "2") as server:
        wait_until(lambda: len(children(server)) == 2)
        pids = children(server)
        site = Site(server, "")
        assert {site.get(f"/hello/{number}").status for number in range(20)} == {200}
        assert server.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_that_dies_is_replaced() -> None:
    with serve(EVERYTHING, "--workers", "2") as server:
        wait_until(lambda: len(children(server)) == 2)
        before = children(server)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(children(server)) == 2 and children(server) != before)
        assert Site(server, "").get("/hello/x").status == 200


def test_a_broken_app_stops_workers_before_they_start(write: Callable[..., Path]) -> None:
    result = run("run", write("return"), "--workers", "2", "--port", "0")
    assert result.returncode == 2
    assert "it never called greenlua.app" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_unix_socket_serves_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "greenlua.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "greenlua", "run", str(HELLO), "--bind", f"unix:{path}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"greenlua: serving {HELLO} on unix:{path} (Ctrl-C stops)\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /hello/unix HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b'{"message":"Hello, unix"}')
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    assert not path.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ipv6(workers: str) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this machine has no IPv6")
    with serve(HELLO, "--host", "::1", "--workers", workers) as server:
        assert server.url.startswith("http://[::1]:")
        with urllib.request.urlopen(server.url + "/hello/six") as answer:
            assert answer.read() == b'{"message":"Hello, six"}'


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tls(certificate: Path, workers: str) -> None:
    with serve(HELLO, "--certfile", str(certificate), "--workers", workers) as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
        with urllib.request.urlopen(server.url + "/hello/tls", context=context) as answer:
            assert answer.read() == b'{"message":"Hello, tls"}'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bind", "tcp:1"], "--bind takes unix:PATH, not 'tcp:1'"),
        (["--bind", "unix:/nowhere/x.sock"], "cannot listen on unix:/nowhere/x.sock: No such file or directory"),
        (["--workers", "0"], "0 is not in the range"),
        (["--workers", "2", "--server", "pywsgi"], "--workers goes with the HTTP front only"),
        (["--access-log", "json", "--server", "pywsgi"], "--access-log goes with the HTTP front only"),
        (["--bind", "unix:/tmp/x.sock", "--server", "pywsgi"], "--bind goes with the HTTP front only"),
        (["--server", "apache"], "'apache' is not one of 'front', 'pywsgi'"),
        (["--access-log", "xml"], "'xml' is not one of 'common', 'combined', 'json'"),
        (["--certfile", "missing.pem"], "missing.pem"),
        (["--certfile", __file__], "cannot be used as a certificate"),
        (["--keyfile", __file__], "--keyfile needs --certfile"),
        (["--set", "workers=2"], "it is an option of the command: greenlua run --workers"),
        (["--host", "nosuch.invalid"], "cannot listen on nosuch.invalid:"),
        (["--certfile", __file__, "--set", "proxy_protocol=true", "--set", "trusted_proxies=*"], "PROXY"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1:"),
        (["--set", "trusted_proxies=10.0.0.0/99"], "'10.0.0.0/99' does not appear to be"),
    ],
)
def test_a_wrong_way_to_listen_is_one_message(arguments: list[str], sentence: str) -> None:
    result = run("run", HELLO, *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def lines_of(arguments: list[str]) -> list[str]:
    """What one request leaves on stdout, after the announcement."""
    process = subprocess.Popen(
        [sys.executable, "-m", "greenlua", "run", str(HELLO), "--port", "0", *arguments],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().split(" on ")[1].split(" ")[0]
    request = urllib.request.Request(url + "/hello/log?a=1", headers={"User-Agent": "tester", "Referer": "http://r/"})
    urllib.request.urlopen(request).close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    with process.stdout as stdout:
        return stdout.read().splitlines()


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--server", "pywsgi"]], ids=["one", "workers", "pywsgi"])
def test_the_access_log_has_a_line_for_each_request_and_none_when_quiet(more: list[str]) -> None:
    (line,) = lines_of(more)
    assert line.startswith("127.0.0.1 - - [")
    # gevent's own server has a form of its own, which counts the bytes of the head too.
    assert '"GET /hello/log?a=1 HTTP/1.1" 200 ' in line
    assert lines_of([*more, "--quiet"]) == []


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["one", "workers"])
def test_the_access_log_may_be_combined_or_json(more: list[str]) -> None:
    (combined,) = lines_of([*more, "--access-log", "combined"])
    assert combined.endswith('200 24 "http://r/" "tester"')
    (text,) = lines_of([*more, "--access-log", "json"])
    entry = json.loads(text)
    assert (entry["method"], entry["target"], entry["status"], entry["bytes"]) == ("GET", "/hello/log?a=1", 200, 24)


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--server", "pywsgi"]], ids=["one", "workers", "pywsgi"])
def test_limits_of_the_settings_reach_the_server(more: list[str]) -> None:
    with serve(EVERYTHING, *more, "--set", "max_body=10", "--set", "max_target=100") as server:
        site = Site(server, "")
        assert site.ask("POST", "/echo", b"x" * 10).status == 200
        assert site.ask("POST", "/echo", b"x" * 11).status == 413
        if "pywsgi" not in more:
            assert site.get("/" + "x" * 100).status == 414
