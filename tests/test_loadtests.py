"""The harness of loadtests/: it reads what wrk and the system say; servers and variants give the right answers; scripts work.

What needs wrk, locust or pyperf is skipped where they are not installed. Locust patches the standard library when it is
imported, so it is only ever run in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.queue import Full

from greenlua.testing import client
from loadtests import ablation, cases, channels, compare, load, measure, report, servers, targets, variants
from loadtests.measure import LoadError, Sample

ROOT = Path(__file__).parent.parent
LOADTESTS = ROOT / "loadtests"

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (apt-get install wrk)")


def run(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """A script of loadtests/ in a process of its own."""
    command = [sys.executable, "-m", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout)


# ------------------------------------------------------------ what wrk says

REPORT = """Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.18ms    1.02ms  20.11ms   95.20%
    Req/Sec    55.10k     2.21k   58.02k    80.00%
  Latency Distribution
     50%    {p50}
     75%    1.20ms
     90%    1.31ms
     99%    {p99}
  110021 requests in {took}, 21.72MB read
{more}Requests/sec:  54750.64
Transfer/sec:     10.81MB
"""


def text(p50: str = "1.10ms", p99: str = "6.01ms", took: str = "2.01s", more: str = "") -> str:
    return REPORT.format(p50=p50, p99=p99, took=took, more=more)


@pytest.mark.parametrize(
    ("p50", "p99", "milliseconds"),
    [
        ("1.10ms", "6.01ms", (1.1, 6.01)),
        ("812.00us", "1.05s ", (0.812, 1050.0)),
        ("2.00s ", "1.50m ", (2000.0, 90000.0)),
    ],
)
def test_latencies_are_read_in_any_unit(p50: str, p99: str, milliseconds: tuple[float, float]) -> None:
    counted = measure.parse_wrk(text(p50, p99))
    assert (counted.p50, counted.p99) == pytest.approx(milliseconds)
    assert counted.p90 == pytest.approx(1.31)


def test_requests_and_errors_are_counted() -> None:
    assert measure.parse_wrk(text()) == measure.Counted(110021, 2.01, 1.1, 1.31, 6.01, 0, 0)
    more = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 17\n"
    counted = measure.parse_wrk(text(took="1.50m ".strip(), more=more))
    assert (counted.not_2xx, counted.socket_errors, counted.seconds) == (17, 4321, 90.0)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("unable to connect to 127.0.0.1:1", "counted no request"),
        (text().replace("110021 requests", "0 requests"), "counted no request"),
        (text().replace("99%", "98%"), "no latencies"),
    ],
)
def test_a_run_that_measured_nothing_is_an_error(output: str, why: str) -> None:
    with pytest.raises(LoadError, match=why):
        measure.parse_wrk(output)


# ------------------------------------------------------------ what the system says


def test_the_time_of_a_process_has_that_of_its_ended_children() -> None:
    # proc(5): after the name, the state is field 3 and utime, stime, cutime and cstime are 14 to 17.
    stat = "7 (a (odd) name) R " + " ".join(str(number) for number in range(4, 14)) + " 100 20 3 4 20 0"
    assert measure.parse_stat(stat) == pytest.approx(127 / measure.TICKS)


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}])
command = [sys.executable, "-c", {BURN + "print(1, flush=True); input()"!r}]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("burnt", flush=True)
input()
child.communicate(b"end")
"""


def test_children_are_counted_whether_they_live_or_not() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(measure.family(process.pid)) == 2
        assert 0.5 < measure.cpu_seconds(process.pid) < 30
        assert measure.memory_bytes(process.pid) > 2**20
        process.communicate(b"end\n")


def test_medians_and_quartiles_over_the_rounds() -> None:
    rounds = [Sample(cpu, 1.0, 1.0, 1.0, 2, 0.5, 0.5) for cpu in (10.0, 30.0, 20.0, 90.0, 40.0)]
    found = measure.summary(rounds)
    assert (found["cpu_us"], found["cpu_us_low"], found["cpu_us_high"], found["errors"]) == (30.0, 20.0, 40.0, 10)
    assert measure.summary(rounds[:1])["cpu_us_low"] == 10.0


# ------------------------------------------------------------ servers


@pytest.mark.parametrize("peer", servers.ALL, ids=lambda peer: peer.name)
def test_each_server_gives_the_right_answers(peer: servers.Peer, tmp_path: Path) -> None:
    missing = peer.missing()
    if missing:
        pytest.skip(missing)
    tmp_path.chmod(0o755)
    server = servers.Running(peer.name, peer.command, tmp_path, dict(peer.environ) | {"ROUTES": "10"})
    try:
        asked = [case for name, case in compare.choose(list(cases.BY_NAME), [peer.name]) if case.routes <= 10]
        for case in asked:
            compare.check(server, case)
        assert len(asked) >= 10
    finally:
        server.stop()
    assert server.process.poll() is not None


class Fixed:
    """A server that always gives the same answer."""

    name = "fixed"

    def __init__(self, status: int, body: bytes) -> None:
        self.answer = status, body

    def ask(self, *_: Any) -> tuple[int, bytes]:
        return self.answer


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b'{"message":"Hello, world"}'), (200, b'{"message":"Hello"}'), (200, b'{"message": "Hello, world"}')],
)
def test_a_wrong_answer_is_not_measured(status: int, body: bytes) -> None:
    hello = cases.BY_NAME["hello"]
    compare.check(Fixed(200, b'{"message":"Hello, world"}'), hello)  # type: ignore[arg-type]
    with pytest.raises(LoadError, match="fixed answered hello with"):
        compare.check(Fixed(status, body), hello)  # type: ignore[arg-type]


def test_a_server_that_ends_says_what_it_wrote(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such luck')"]
    with pytest.raises(servers.StartError, match="no such luck"):
        servers.Running("broken", lambda port, folder: command, tmp_path, {})


@pytest.mark.skipif(not servers.ENDS_WITH_US, reason="setpriv is not installed (util-linux)")
def test_no_server_outlives_a_script_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from loadtests import servers
peer = servers.BY_NAME["greenlua"]
print(servers.Running(peer.name, peer.command, pathlib.Path({str(tmp_path)!r}), {{}}).process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    pid, deadline = int(done.stdout), time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and b"greenlua" in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, f"the server {pid} goes on"
        time.sleep(0.05)


@pytest.mark.parametrize("app", ["users.lua", "overload.lua", "peers/app.lua"])
def test_the_apps_load_on_each_lua(app: str, lua: str) -> None:
    asked = client(LOADTESTS / app, lua=lua)
    if app == "users.lua":
        made = asked.simulate_post("/notes", json={"title": "one"})
        assert (made.status_code, made.json) == (201, {"id": 1, "title": "one", "version": 1})
        assert "event: change" in asked.simulate_get("/notes/1/events?after=0").text
    elif app == "overload.lua":
        assert asked.simulate_get("/compute").json == {"sum": 300000}
    else:
        assert asked.simulate_get("/objects").json == cases.OBJECTS
        for wrong in ({"title": ""}, {"priority": 1.5}, {"priority": 6}, {"done": "no"}):
            assert asked.simulate_post("/todos", json=cases.TODO | wrong).status_code == 422


# ------------------------------------------------------------ compare.py


@needs_wrk
def test_compare_writes_tables_figures_and_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin compare -->\nold\n<!-- end compare -->\nafter\n")
    words = [
        "--cases",
        "hello,not-found",
        "--peers",
        "greenlua",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--connections",
        "4",
    ]
    done = run("loadtests.compare", *words, "--output", str(tmp_path), "--page", str(page))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "compare.json").read_text())
    assert not found["failed"]
    assert not found["skipped"]
    for case in ("hello", "not-found"):
        row = found["rows"][case]["greenlua"]
        assert row["errors"] == 0
        assert 1 < row["cpu_us"] < 100_000
        assert row["memory"] > 2**20
        assert len(row["rounds"]) == 1
    written = page.read_text()
    assert "| greenlua |" in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert (tmp_path / "compare.png").exists() == (find_spec("matplotlib") is not None)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--cases", "hallo"], "there is no case 'hallo'"),
        (["--peers", "apache"], "there is no server 'apache'"),
        (["--rounds", "0"], "must be at least 1"),
    ],
)
def test_wrong_options_are_refused(words: list[str], why: str) -> None:
    done = run("loadtests.compare", *words)
    assert done.returncode == 2
    assert why in done.stderr


def test_cases_are_for_servers_that_have_them() -> None:
    pairs = [(peer.name, case.name) for peer, case in compare.choose(["wait-10ms", "cached"], ["naive", "greenlua"])]
    assert pairs == [("greenlua", "wait-10ms"), ("greenlua", "cached")]
    for case in cases.CASES:
        assert set(case.peers) <= servers.BY_NAME.keys()


def test_targets_are_judged_by_the_ratio() -> None:
    rows = {"hello": {"greenlua": {"cpu_us": 10.0}, "nginx-lua": {"cpu_us": 5.0}, "granian-falcon": {"cpu_us": 9.0}}}
    judged = {target.what: (ratio, ratio <= target.most) for target, ratio in targets.targets_of(rows)}
    assert judged == {"hello, against nginx-lua": (2.0, True), "hello, against granian-falcon": (10 / 9, False)}


@pytest.mark.parametrize("page", ["", "<!-- end x -->\n<!-- begin x -->\n", "<!-- begin x -->\n<!-- end x -->\n" * 2])
def test_a_page_without_its_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="begin x"):
        report.replaced(page, "x", "table")


@needs_wrk
def test_the_front_is_measured_beside_the_stock_handler() -> None:
    done = run("loadtests.front", "--rounds", "1", "--seconds", "1", "--idle", "20")
    assert done.returncode == 0, done.stderr
    cpu, memory = done.stdout.splitlines()[:3], done.stdout.splitlines()[3:]
    names = ["pywsgi, stock handler", "pywsgi, this Handler", "this Server"]
    assert [line[:22].strip() for line in cpu] == [line[:22].strip() for line in memory] == names
    assert "100.0% of stock" in cpu[0]
    assert all(line.endswith("KB per idle connection (20)") for line in memory)


# ------------------------------------------------------------ ablation.py


def test_every_variant_answers_in_process() -> None:
    taken = ablation.engine(list(variants.VARIANTS), 1, 30)
    assert taken.keys() == {(name, path) for name in variants.VARIANTS for path in ablation.PATHS}
    assert all(one.errors == 0 and one.rate > 0 for samples in taken.values() for one in samples)
    table = ablation.claims_table(taken)
    for idea, *_ in ablation.CLAIMS:
        assert f"| {idea} |" in table


def test_wrong_answers_in_process_are_counted() -> None:
    def refusing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("503 Service Unavailable", [])
        return []

    assert ablation.engine_round(refusing, "/hello", 2).errors == 2 * ablation.GREENLETS


@pytest.mark.parametrize("variant", variants.VARIANTS.values(), ids=lambda variant: variant.name)
def test_a_variant_lacks_what_it_says_and_nothing_else(variant: variants.Variant, tmp_path: Path) -> None:
    app = variants.build(variant, tmp_path)
    try:
        serving, asked = app.start(), client(app)
        slot = serving.pool.take(1.0)
        new = isinstance(slot.result, gevent.event.AsyncResult)
        serving.pool.withdraw(slot)
        before = app.statistics()["dispatcher"]["served"]
        for path in ("/hello", "/hello", "/constant"):
            assert asked.simulate_get(path).json == {"message": "Hello, world"}
        entered = app.statistics()["dispatcher"]["served"] - before
        lacking = {
            "lazy": type(serving.dispatcher) is variants.EagerDispatcher,
            "batches": app.settings.batch_max == 1,
            "slots": new,
            "channel": type(serving.channel).__name__ == "QueueChannel",
            "inline": entered == 3,
        }
        assert {idea for idea, lacks in lacking.items() if lacks} == variant.without
        assert entered in (2, 3)
    finally:
        app.stop(1)


def test_the_rejected_context_has_the_whole_request(write: Any) -> None:
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/x",
        "wsgi.url_scheme": "http",
        "QUERY_STRING": "tag=a&tag=b&n=1",
        "HTTP_HOST": "localhost",
        "HTTP_COOKIE": "a=1; b=2",
        "greenlua.request_id": "id",
    }
    found = variants.whole(type("Call", (), {"environ": environ, "body": b"text"}))
    assert found[b"query"] == {b"tag": [b"a", b"b"], b"n": b"1"}
    assert found[b"headers"] == {b"host": b"localhost", b"cookie": b"a=1; b=2"}
    assert found[b"cookies"] == {b"a": b"1", b"b": b"2"}
    assert (found[b"method"], found[b"path"], found[b"body"]) == (b"GET", b"/x", b"text")


def test_a_variant_serves_http(tmp_path: Path) -> None:
    with ablation.serving("without any", tmp_path) as server:
        assert server.ask("GET", "/hello", "", measure.BROWSER) == (200, b'{"message":"Hello, world"}')


def test_a_gain_is_the_median_of_ratios_side_by_side() -> None:
    own = [Sample(cpu, 0, 0, 0, 0, 0, 0) for cpu in (10.0, 20.0, 10.0)]
    other = [Sample(cpu, 0, 0, 0, 0, 0, 0) for cpu in (15.0, 24.0, 14.0)]
    assert ablation.gain(own, other)[0] == pytest.approx(0.4)


@pytest.mark.parametrize("make", channels.CANDIDATES.values(), ids=channels.CANDIDATES)
def test_candidates_for_the_channel_are_bounded_queues(make: Any) -> None:
    queue, got = make(2), []
    queue.put(1)
    queue.put(2)
    with pytest.raises(Full):
        queue.put(3, timeout=0.01)
    assert queue.qsize() == 2
    late = gevent.spawn(queue.put, 3)
    gevent.sleep(0)
    assert queue.qsize() == 2
    reader = gevent.spawn(lambda: [got.append(queue.get()) for _ in range(4)])
    late.join(5)
    queue.put(4)
    reader.join(5)
    assert got == [1, 2, 3, 4]
    assert channels.one_round(make, 500) > 0  # the clock of a process may go in steps of 10 ms


# ------------------------------------------------------------ load


@needs_wrk
def test_overload_finds_the_first_refusal(tmp_path: Path) -> None:
    words = ["--kinds", "/wait", "--connections", "2", "40", "80", "--seconds", "1"]
    settings = ["--set", "slots=4", "--set", "queue_timeout=0.05"]
    done = run("loadtests.overload", *words, *settings, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "overload.json").read_text())["lines"]
    assert [line[1] for line in lines] == ["2", "40"], "it stops where requests are refused"
    assert lines[0][-1] == "0"
    assert int(lines[1][-1]) > 0


def test_load_knows_each_kind_of_request_and_what_a_log_must_not_have() -> None:
    kinds = load.kinds()
    assert {"GET /broken", "PATCH /notes/{id}", "GET /notes/{id}/events", "POST /notes (no JSON)"} <= kinds
    assert len(kinds) == 13
    log = "INFO fine\nERROR GET /broken [1]: users.lua:70: on purpose\nERROR GET /notes [2]: users.lua:9: nil\n"
    assert load.faults(log) == ["ERROR GET /notes [2]: users.lua:9: nil"]


needs_locust = pytest.mark.skipif(
    find_spec("locust") is None, reason="locust is not installed (pip install -e '.[load]')"
)


@needs_locust
def test_users_find_nothing_wrong(tmp_path: Path) -> None:
    done = run("loadtests.load", "--users", "20", "--seconds", "5", "--report", str(tmp_path / "report.html"))
    said = done.stdout + done.stderr
    wrong = [line for line in done.stdout.splitlines() if "WRONG" in line and "never asked" not in line]
    assert not wrong, said
    assert "0(0.00%)" in said
    assert (tmp_path / "report.html").stat().st_size > 1000


@needs_locust
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("tag = tag, version = 1", "tag = tag, version = 2"),
        (
            'app:get("/notes/{id:int}", find)',
            'app:get("/notes/{id:int}", function(ctx) return { id = find(ctx).id } end)',
        ),
    ],
    ids=["made", "read"],
)
def test_users_find_a_wrong_answer(right: str, wrong: str, tmp_path: Path, write: Any) -> None:
    source = (LOADTESTS / "users.lua").read_text()
    assert source.count(right) == 1
    app = write(source.replace(right, wrong))
    words = ["--users", "20", "--seconds", "3", "--app", str(app), "--report", str(tmp_path / "report.html")]
    done = run("loadtests.load", *words)
    assert done.returncode == 1
    assert "locust found wrong answers" in done.stdout


@needs_locust
def test_shapes_step_spike_and_stay() -> None:
    code = """
from loadtests.shapes import users_at
parts = [at / 20 for at in range(20)]
step, spike = ([users_at(shape, part, 100) for part in parts] for shape in ("step", "spike"))
assert step == sorted(step) and step[0] == 10 and step[-1] == 100, step
assert spike[0] == spike[-1] == 10 and spike[10] == 100, spike
assert {users_at("soak", part, 100) for part in parts} == {100}
assert users_at("step", 0, 3) == users_at("spike", 0, 3) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("pyperf") is None, reason="pyperf is not installed (pip install -e '.[bench]')")
def test_micro_benchmarks_run() -> None:
    names = ["slots", "results", "channel", "border, 5.4: a handler", "JSON out, luajit: 1 object", "routing: the last"]
    done = run("loadtests.micro", "--debug-single-value", "--quiet", "-b", *names)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert name in done.stdout
