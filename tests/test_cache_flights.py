"""Many requests for one answer at once: one runs the handler; what the others get; stale answers; and purges meanwhile."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.cache_site import CacheSite, Open
from tests.test_cache import runs_of

CACHED = 'app:get("/x", { cache = 60 }, count)'


def crowd(api: CacheSite, number: int, target: str = "/x") -> list[Any]:
    """So many requests at once, of which the first is in the handler and the others wait for it."""
    api.ask("/hold")
    misses = api.figures("misses")[0]
    greenlets = [api.spawn(target)]
    api.until(lambda: api.figures("misses")[0] > misses)
    greenlets += [api.spawn(target) for _ in range(number - 1)]
    api.until(lambda: api.figures("misses", "coalesced")[1] + 1 >= number and api.app.load().pool.in_use)
    return greenlets


def answers_of(greenlets: list[Any]) -> list[Any]:
    gevent.joinall(greenlets, timeout=20)
    return [greenlet.value for greenlet in greenlets]


def test_of_many_at_once_one_runs_the_handler(site: Open, lua: str) -> None:
    api = site(CACHED, lua=lua)
    greenlets = crowd(api, 40)
    serving = api.app.load()
    assert serving.pool.in_use == 1, "those that wait hold no slot"
    assert serving.responder.coming == 39, "a reload must wait for them"
    other = api.spawn("/x?other")
    api.until(lambda: serving.pool.in_use == 2)
    api.ask("/let")
    answers = answers_of(greenlets)
    assert {answer.body for answer in answers} == {b'{"n":1}'}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 40
    assert [("age" in answer.headers) for answer in answers].count(False) == 1
    assert other.get().json == {"n": 2}
    assert api.figures("misses", "coalesced", "hits") == (2, 39, 0)
    assert (serving.responder.coming, serving.pool.in_use, len(api.cache.flights)) == (0, 0, 0)


def test_an_answer_that_is_not_kept_is_nobody_elses(site: Open, lua: str) -> None:
    api = site(
        'app:get("/x", { cache = 60 }, function(ctx) return { count().n, ctx.cookies.id or "none" } end)', lua=lua
    )
    greenlets = crowd(api, 10)
    api.ask("/let")
    assert sorted(answer.json[0] for answer in answers_of(greenlets)) == list(range(1, 11))
    # Nor does anybody wait for such an answer again for a while: they would come one by one.
    crowd(api, 1)
    late = [api.spawn("/x") for _ in range(5)]
    api.until(lambda: api.app.load().pool.in_use == 6)
    api.ask("/let")
    answers_of(late)
    assert api.figures("coalesced") == (9,)


def test_an_answer_is_kept_when_it_can_be_again(site: Open) -> None:
    api = site(
        'app:get("/x", { cache = 60 }, function() local n = count().n return n == 1 and 500 or 200, { n = n } end)'
    )
    assert [api.ask("/x").json["n"] for _ in range(4)] == [1, 2, 2, 2]


@pytest.mark.parametrize("status", ["timed out", "killed", "client gone", "overload"])
def test_when_the_one_that_runs_comes_to_nothing_another_one_runs(site: Open, status: str) -> None:
    api = site(CACHED)
    greenlets = crowd(api, 10)
    serving = api.app.load()
    slot = next(slot for slot in serving.pool.slots if slot.call is not None and slot.call.environ["PATH_INFO"] == "/x")
    if status == "timed out":
        slot.taken_at -= 100
    elif status == "killed":
        greenlets[0].kill()
    elif status == "client gone":
        from greenlua.messages import Failure
        from greenlua.slots import TRANSITIONS

        slot.state = TRANSITIONS[slot.state, "disconnect"]
        slot.result.set(Failure(499, "the client closed its connection"))
    else:
        from greenlua.messages import Failure

        slot.state = "EXPIRED"
        slot.result.set(Failure(503, "no room"))
    api.until(lambda: api.figures("misses") == (2,))
    api.ask("/let")
    answers = answers_of(greenlets)
    bodies = [answer.body for answer in answers if hasattr(answer, "status") and answer.status == 200]
    assert bodies == [b'{"n":2}'] * 9
    first = answers[0]
    assert status == "killed" or first.status == {"timed out": 504, "client gone": 499, "overload": 503}[status]
    assert runs_of(api) == 2


def test_who_waits_too_long_gets_504(site: Open) -> None:
    api = site(CACHED, request_timeout=0.3)
    greenlets = crowd(api, 3)
    api.app.load().pool.timeout = 1000  # the one that runs goes on
    waiting = answers_of(greenlets[1:])
    assert [answer.status for answer in waiting] == [504, 504]
    assert waiting[0].json["detail"] == "no answer within 0.3 seconds"
    api.ask("/let")
    assert answers_of(greenlets[:1])[0].status == 200


def test_as_many_wait_as_there_are_slots(site: Open) -> None:
    api = site(CACHED, slots=5)
    greenlets = crowd(api, 6)
    refused = api.ask("/x")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.json["detail"] == "5 requests wait for an answer to others already"
    api.ask("/let")
    assert [answer.status for answer in answers_of(greenlets)] == [200] * 6
    assert api.cache.flights._waiting == 0


def test_a_waiter_that_is_killed_leaves_nothing_behind(site: Open) -> None:
    api = site(CACHED)
    greenlets = crowd(api, 3)
    gevent.killall(greenlets[1:])
    assert (api.cache.flights._waiting, api.app.load().responder.coming) == (0, 0)
    api.ask("/let")
    assert answers_of(greenlets[:1])[0].status == 200


def test_a_head_and_a_get_wait_for_each_other(site: Open) -> None:
    api = site(CACHED)
    api.ask("/hold")
    head = api.spawn("/x", method="HEAD")
    api.until(lambda: api.app.load().pool.in_use)
    get = api.spawn("/x")
    api.until(lambda: api.figures("coalesced") == (1,))
    api.ask("/let")
    assert (head.get().body, get.get().body) == (b"", b'{"n":1}')
    assert head.get().headers["content-length"] == "7"


def test_a_head_of_an_answer_that_is_not_kept_has_no_body(site: Open) -> None:
    api = site('app:get("/x", { cache = 60 }, function() return response.stream(function(write) write("x") end) end)')
    for _ in range(2):
        answer = api.ask("/x", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
    api.until(lambda: api.app.load().pool.in_use == 0)


@pytest.mark.parametrize("options", ["cache = 60", "cache = { ttl = 60, key = wait }"])
def test_a_reload_waits_for_those_that_wait(site: Open, options: str) -> None:
    gate = Event()
    api = site(
        f'local function wait() gate() return "x" end app:get("/x", {{ {options} }}, wait)',
        expose={"gate": lambda: gate.wait(20) or None},
    )
    greenlets = [api.spawn("/x") for _ in range(5)]
    api.until(lambda: api.figures("coalesced") == (4,))
    api.app.reload()
    gate.set()
    assert [answer.status for answer in answers_of(greenlets)] == [200] * 5
    api.until(lambda: not api.app._life._retiring)
    assert api.app._life._purges._caches == [api.cache]


# ------------------------------------------------------------ stale answers


def test_a_stale_answer_is_served_while_one_run_makes_it_anew(site: Open, lua: str) -> None:
    api = site('app:get("/x", { cache = { ttl = 10, stale = 20 } }, count)', lua=lua)
    api.ask("/x")
    api.ask("/hold")
    api.now += 10
    answers = [api.ask("/x") for _ in range(5)]
    assert {(answer.body, answer.headers["age"]) for answer in answers} == {(b'{"n":1}', "10")}
    api.until(lambda: api.app.load().pool.in_use)
    assert (api.figures("stale", "hits", "misses"), api.cache.refreshing) == ((5, 0, 1), 1)
    api.ask("/let")
    api.until(lambda: not api.cache.refreshing)
    fresh = api.ask("/x")
    assert (fresh.json, fresh.headers["age"]) == ({"n": 2}, "0")
    assert runs_of(api) == 2
    api.now += 30
    assert "age" not in api.ask("/x").headers, "past stale it is as if it had never been"
    assert runs_of(api) == 3


def test_a_refresh_is_a_get_of_nobody(site: Open, lua: str) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 10, stale = 20, query = { "a" } } }, function(ctx)
          return { ctx.method, ctx.query.a, ctx.query.b or "none", ctx.body, count().n }
        end)""",
        lua=lua,
    )
    api.ask("/x?a=1&b=2")
    api.now += 10
    api.ask("/hold")
    connection = dict.fromkeys(("greenlua.connection", "gunicorn.socket", "greenlua.upgrade"), 7)
    api.ask("/x?a=1&b=3", method="HEAD", more=connection)
    pool = api.app.load().pool
    api.until(lambda: pool.in_use)
    (environ,) = [slot.call.environ for slot in pool.slots if slot.state == "WAITING"]
    assert environ["PATH_INFO"] == "/x"
    assert not connection.keys() & environ.keys(), "whoever asked may leave, and it goes on"
    api.ask("/let")
    api.until(lambda: not api.cache.refreshing)
    assert api.ask("/x?a=1").json == ["GET", "1", "none", "", 2]


def test_a_failing_refresh_leaves_the_stale_answer_and_is_tried_once_a_second(
    site: Open, caplog: pytest.LogCaptureFixture
) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 10, stale = 20 } }, function()
          local n = count().n
          if n > 1 and n < 4 then error("broken") end
          return { n = n }
        end)"""
    )
    api.ask("/x")
    runs = []
    for at in (10, 10.5, 10.9, 11.0, 11.5, 12.0):
        api.now = 1000 + at
        assert api.ask("/x").json == {"n": 1}
        api.until(lambda: not api.cache.refreshing)
        runs.append(runs_of(api))
    assert runs == [2, 2, 2, 3, 3, 4]
    assert api.ask("/x").json == {"n": 4}
    assert caplog.text.count("broken") >= 2


def test_a_refresh_that_streams_keeps_no_slot(site: Open) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 10, stale = 20 } }, function()
          if count().n == 1 then return "x" end
          return response.stream(function(write) while true do write(("x"):rep(70000)) end end)
        end)"""
    )
    api.ask("/x")
    api.now += 10
    assert api.ask("/x").body == b"x"
    api.until(lambda: not api.cache.refreshing and not api.app.load().pool.in_use)


# ------------------------------------------------------------ purges

PURGING = """
app:get("/a/{id}", { cache = { ttl = 60, stale = 60 } }, count)
app:get("/ä", { cache = 60 }, count)
app:get("/purge", function(ctx) return { app:purge(ctx.query.what), app:purge(ctx.query.what) } end)
"""


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ("/a/1", ["/a/10", "/a/2", "/ä"]),
        ("/a/1*", ["/a/2", "/ä"]),
        ("/a/*", ["/ä"]),
        ("/*", []),
        ("/ä", ["/a/1", "/a/10", "/a/2"]),
        ("/a", ["/a/1", "/a/10", "/a/2", "/ä"]),
        ("/purge", ["/a/1", "/a/10", "/a/2", "/ä"]),
        ("/healthz", ["/a/1", "/a/10", "/a/2", "/ä"]),
    ],
)
def test_purge_drops_what_it_names(site: Open, lua: str, what: str, left: list[str]) -> None:
    api = site(PURGING, lua=lua)
    paths = ["/a/1", "/a/10", "/a/2", "/ä"]
    for path in paths:
        api.ask(path)
    api.ask("/a/1?variant")
    gone = [path for path in paths if path not in left]
    answer = api.ask(f"/purge?what={what}".replace("ä", "%C3%A4"))
    assert answer.json == [len(gone) + ("/a/1" in gone), 0], answer.body
    assert [path for path in paths if "age" in api.ask(path).headers] == left
    assert api.ask("/healthz").status == 200


def test_a_purge_has_happened_when_the_handler_goes_on(site: Open, lua: str) -> None:
    api = site(
        """
        local value = 1
        app:get("/x", { cache = 60 }, function() return { value } end)
        app:post("/x", function() value = value + 1 app:purge("/x") end)""",
        lua=lua,
    )
    for expected in range(1, 4):
        assert [api.ask("/x").json, api.ask("/x").json] == [[expected], [expected]]
        api.ask("/x", method="POST")


@pytest.mark.parametrize("what", ["/a/1", "/a/*"])
def test_an_answer_that_is_made_during_a_purge_is_not_kept(site: Open, what: str) -> None:
    api = site(PURGING)
    before = crowd(api, 3, "/a/1")
    api.ask(f"/purge?what={what}")
    after = api.spawn("/a/1")
    api.until(lambda: api.app.load().pool.in_use == 2)
    assert api.figures("misses", "coalesced") == (2, 2), "who comes after the purge does not wait for what began before"
    api.ask("/let")
    assert [answer.json["n"] for answer in answers_of(before)] == [1, 1, 1]
    assert after.get().json == {"n": 2}
    assert api.ask("/a/1").json == {"n": 2}


def test_a_refresh_that_began_before_a_purge_is_not_kept(site: Open) -> None:
    api = site(PURGING)
    api.ask("/a/1")
    api.ask("/hold")
    api.now += 70
    assert api.ask("/a/1").json == {"n": 1}
    api.until(lambda: api.app.load().pool.in_use)
    assert api.ask("/purge?what=/a/1").json == [1, 0]
    api.ask("/let")
    api.until(lambda: not api.cache.refreshing)
    assert api.figures("entries") == (0,)


def test_purging_while_the_app_loads_does_nothing(site: Open) -> None:
    assert site('app:purge("/*")\n' + CACHED).ask("/x").status == 200


def test_a_purge_of_a_handler_that_a_reload_found_inside_reaches_the_new_cache(site: Open) -> None:
    gate = Event()
    api = site(
        """
        app:get("/x", { cache = 60 }, function() return "x" end)
        app:get("/p", function() gate() return { app:purge("/x") } end)""",
        expose={"gate": lambda: gate.wait(20) or None},
    )
    purging = api.spawn("/p")
    api.until(lambda: api.app.load().pool.in_use)
    api.app.reload()
    api.ask("/x")
    assert api.figures("entries") == (1,)
    gate.set()
    assert purging.get().json == [1]
    assert api.figures("entries") == (0,)


def test_where_gevent_has_patched_nothing_purges_stay_here(site: Open, caplog: pytest.LogCaptureFixture) -> None:
    api = site(PURGING, store_url="redis://127.0.0.1:1/0")
    assert "app:purge stays in this process: gevent has not patched the sockets" in caplog.text
    api.ask("/a/1")
    assert api.ask("/purge?what=/a/1").json == [1, 0]
