"""The key of a cache's rule: a function of the app that says which requests share an answer, asked once for each that differ."""

from __future__ import annotations

import gc
import re
import tracemalloc
from typing import Any

import pytest
from gevent.event import Event

from greenlua import cache
from greenlua.cache_rule import Rule
from greenlua.cache_store import Entry
from greenlua.messages import Failure
from tests.cache_site import CacheSite, Open, objections
from tests.test_cache import runs_of
from tests.test_cache_flights import answers_of

# What every app of these tests has: the key counts how often it is asked, and for what.
ASKING = """
local asked = {}
local function key(ctx)
  local agent = ctx.headers.user_agent or ""
  asked[#asked + 1] = agent
  if agent:find("Bot") then return nil end
  return agent:find("Mobile") and "mobile" or "desktop"
end
app:get("/asked", function() return asked end)
"""
BY_DEVICE = ASKING + 'app:get("/x", { cache = { ttl = 10, vary = "user-agent", key = key } }, count)'


def ask(api: CacheSite, agent: str, target: str = "/x", **more: Any) -> Any:
    return api.ask(target, headers={"User-Agent": agent}, **more)


def asked_of(api: CacheSite) -> list[str]:
    return list(api.ask("/asked").json)


def spawn(api: CacheSite, agent: str, target: str = "/x", method: str = "GET") -> Any:
    return api.spawn(target, method, {"User-Agent": agent})


# ------------------------------------------------------------ who shares an answer


def test_requests_of_one_key_share_an_answer(site: Open, lua: str) -> None:
    api = site(BY_DEVICE, lua=lua)
    agents = ["Mobile 1", "Desk 1", "Mobile 2", "Desk 2", "Mobile 1", "Desk 2"] * 4
    answers = [ask(api, agent) for agent in agents]
    assert {(agent[0], answer.json["n"]) for agent, answer in zip(agents, answers, strict=True)} == {("M", 1), ("D", 2)}
    assert asked_of(api) == ["Mobile 1", "Desk 1", "Mobile 2", "Desk 2"], "once for each that differ"
    assert runs_of(api) == 2
    assert api.figures("entries", "misses", "hits") == (2, 2, 22)
    assert api.repeated, "to the same bytes the front gives the same answer"
    assert {answer.headers["vary"] for answer in answers} == {"User-Agent"}, "a proxy cannot ask for the key"


def test_the_path_and_what_does_not_go_into_the_key(site: Open, lua: str) -> None:
    api = site(
        """
        local function grid(ctx) return string.format("%.1f,%.1f", tonumber(ctx.query.lat), tonumber(ctx.query.lon)) end
        app:get("/weather/{day}", { cache = { ttl = 10, query = { "lat", "lon" }, key = grid } }, function(ctx)
          return { at = grid(ctx), day = ctx.params.day, n = count().n }
        end)""",
        lua=lua,
    )
    found = [
        api.ask(target).json
        for target in (
            "/weather/mo?lat=52.52&lon=13.41",
            "/weather/mo?lon=13.38&lat=52.49&junk=1",
            "/weather/tu?lat=52.52&lon=13.41",
            "/weather/mo?lat=48.1&lon=11.6",
        )
    ]
    assert found == [
        {"at": "52.5,13.4", "day": "mo", "n": 1},
        {"at": "52.5,13.4", "day": "mo", "n": 1},
        {"at": "52.5,13.4", "day": "tu", "n": 2},
        {"at": "48.1,11.6", "day": "mo", "n": 3},
    ]


def test_numbers_and_the_empty_string_are_keys(site: Open, lua: str) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 10, key = function(ctx)
          if ctx.query.text then return ctx.query.text end
          return tonumber(ctx.query.number)
        end } }, count)""",
        lua=lua,
    )
    answers = [
        api.ask(target).json["n"] for target in ("/x?text=7", "/x?number=7", "/x?text=", "/x?text", "/x?text=%00")
    ]
    assert answers == [1, 1, 2, 2, 3]


def test_without_a_key_a_request_goes_past_and_shows_all(site: Open, lua: str) -> None:
    api = site(
        """
        local function key(ctx) if ctx.cookies.session == nil then return "all" end end
        app:get("/x", { cache = { ttl = 10, cookies = { "session" }, query = {}, key = key } }, function(ctx)
          return { ctx.cookies.session or "nobody", ctx.cookies.theme or "none", ctx.query.a or "none", count().n }
        end)""",
        lua=lua,
    )
    mine = {"Cookie": "session=7; theme=dark"}
    for number in (1, 2):
        assert api.ask("/x?a=b", headers=mine).json == ["7", "dark", "b", number]
    assert api.figures("misses", "stored") == (0, 0)
    for _ in range(3):
        assert api.ask("/x?a=b", headers={"Cookie": "theme=dark"}).json == ["nobody", "none", "none", 3]
    assert api.ask("/x?a=b", headers=mine).json == ["7", "dark", "b", 4]
    assert api.ask("/x", headers=mine, method="HEAD").body == b""
    assert api.figures("misses", "stored", "entries") == (1, 1, 1)


UNNAMED = {
    "a header": ("{ ttl = 60, key = key }", "ctx.headers.x_who", "X-Who"),
    "a header that is ignored": ('{ ttl = 60, ignore = "*", key = key }', "ctx.headers.x_who", "X-Who"),
    "Authorization, for all": ("{ ttl = 60, private = false, key = key }", "ctx.headers.authorization", "Authorization"),
    "cookies, for all": ("{ ttl = 60, private = false, key = key }", "ctx.cookies.who", "Cookie"),
    "another header": ('{ ttl = 60, vary = "accept", key = key }', "(ctx.headers.accept or '') .. ctx.headers.x_who", "X-Who"),
    "the address": ('{ ttl = 60, ignore = "client_ip", key = key }', "ctx.client_ip .. ctx.headers.x_who", "X-Who, client_ip"),
    "all headers": ("{ ttl = 60, key = key }", "table.concat(values(ctx.headers))", "*, Authorization, Cookie"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNNAMED)
def test_a_key_of_what_is_not_named_keeps_nothing(
    site: Open, lua: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rule, looks, said = UNNAMED[name]
    api = site(
        f"""
        local function values(t) local list = {{}} for _, value in pairs(t) do list[#list + 1] = value end return list end
        local function key(ctx) return {looks} end
        app:get("/x", {{ cache = {rule} }}, function(ctx) count() return {looks} end)""",
        lua=lua,
    )
    for number in range(3):
        for who in ("ann", "ben", "cem"):
            headers = {"X-Who": who, "Authorization": who, "Cookie": f"who={who}"}
            if name.startswith(("a header", "another", "the address", "all headers")):
                headers = {"X-Who": who}
            answer = api.ask("/x", headers=headers)
            assert who in answer.body.decode(), (number, who)
            assert "age" not in answer.headers
    assert api.figures("entries", "stored") == (0, 0)
    told = objections(caplog)
    assert len(told) == 1
    assert f"its key looked at {said}, but is asked once for all requests that differ only there" in told[0]


LEFT_OUT = {
    "a token": ('vary = "x-token"',
        'app:before(function(ctx) if ctx.headers.x_token ~= "s3cret" then return 401, "x" end end)', "X-Token"),
    "a host": ('vary = "host"', "app:after(function(ctx, response) response.body = ctx.host end)", "Host"),
    "cookies": ('cookies = "session"',
        "app:before(function(ctx) if not ctx.cookies.session then return 401, 'x' end end)", "Cookie"),
    "Authorization": ('private = false, vary = "authorization"',
        "app:after(function(ctx, response) response.body = ctx.headers.authorization or 'nobody' end)", "Authorization"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_the_key_leaves_out_the_answer_may_not_depend_on(
    site: Open, lua: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rule, hook, said = LEFT_OUT[name]
    api = site(
        f"""
        {hook}
        app:get("/x", {{ cache = {{ ttl = 60, query = "q", {rule}, key = function(ctx) return ctx.query.q end }} }},
          function() return "private" end)""",
        lua=lua,
    )
    mine = {"X-Token": "s3cret", "Cookie": "session=7", "Host": "a"}
    if "private" in rule:
        mine["Authorization"] = "ann"
    for _ in range(3):
        answers = [api.ask("/x?q=1", headers=mine), api.ask("/x?q=1", headers={"Host": "b"})]
        assert answers[0].status == 200
        assert answers[0].body != answers[1].body
        assert not [answer for answer in answers if "age" in answer.headers]
    assert api.figures("stored") == (0,)
    told = objections(caplog)
    assert len(told) == 1
    assert told[0].endswith(
        f"the handler or a hook looked at {said}, but the rule's key did not; let it look there too"
    )


MEMBERS = """
        local function key(ctx)
          if ctx.query.as then return ctx.query.as end
          return ctx.headers.x_who and "member" or "guest"
        end"""


def test_an_answer_is_nobodys_whose_key_left_out_what_it_depends_on(site: Open, lua: str) -> None:
    """The key of the one looked at the header, that of the other did not; both say the same."""
    api = site(
        MEMBERS
        + """
        app:before(function(ctx) if not ctx.headers.x_who then return 401, "x" end end)
        app:get("/x", { cache = { ttl = 10, query = "as", vary = "x-who", key = key } }, function() return "members only" end)""",
        lua=lua,
    )
    for _ in range(2):
        assert api.ask("/x?as=member").status == 401
        assert api.ask("/x", headers={"X-Who": "ann"}).body == b"members only"
    assert api.ask("/x", headers={"X-Who": "ben"}).headers["age"] == "0"
    greenlets = [api.spawn("/x?as=member", headers={"X-Who": "cem"}) for _ in range(3)]
    assert [answer.body for answer in answers_of(greenlets)] == [b"members only"] * 3
    assert api.ask("/x?as=member").status == 401


def test_who_waits_gets_no_answer_that_his_key_cannot_have(site: Open) -> None:
    api = site(
        MEMBERS
        + """
        app:get("/x", { cache = { ttl = 10, query = "as", vary = "x-who", key = key } }, function(ctx)
          return { ctx.headers.x_who or "nobody", count().n }
        end)"""
    )
    api.ask("/hold")
    first = api.spawn("/x", headers={"X-Who": "ann"})
    api.until(lambda: api.figures("misses") == (1,))
    greenlets = [api.spawn("/x?as=member", headers={"X-Who": "ben"}), api.spawn("/x", headers={"X-Who": "cem"})]
    api.until(lambda: api.figures("coalesced") == (2,))
    api.ask("/let")
    assert [answer.json[0] for answer in answers_of([first, *greenlets])] == ["ann", "ben", "ann"]


def test_whoever_sets_off_a_refresh_gives_it_no_more_than_the_one_before_had(site: Open) -> None:
    api = site(
        MEMBERS
        + """
        app:get("/x", { cache = { ttl = 10, stale = 50, query = "as", vary = "x-who", key = key } }, function(ctx)
          return { ctx.query.as and ctx.headers.x_who or "a member", count().n }
        end)"""
    )
    ann, ben = {"X-Who": "ann"}, {"X-Who": "ben's secret"}
    assert api.ask("/x", headers=ann).json == ["a member", 1]
    assert api.ask("/x?as=member", headers=ben).json == ["a member", 1]
    api.now += 15
    assert api.ask("/x?as=member", headers=ben).json == ["a member", 1]
    api.until(lambda: not api.cache.refreshing)
    assert api.ask("/x", headers=ann).json == ["a member", 1], "what was made anew is not kept"
    assert runs_of(api) == 2


@pytest.mark.parametrize(
    "looks", ["for _ in pairs(ctx.headers) do end", "for i = 1, 70 do local _ = ctx.headers['x' .. i] end"]
)
def test_all_headers_are_also_those_that_are_named(site: Open, looks: str) -> None:
    api = site(
        f"""
        app:get("/x", {{ cache = {{ ttl = 10, query = "q", vary = "x-who", ignore = "*", private = false,
          key = function(ctx) return ctx.query.q end }} }}, function(ctx)
            {looks}
            return {{ ctx.headers.x_who }}
        end)"""
    )
    for who in ("ann", "ben", "ann"):
        assert api.ask("/x?q=1", headers={"X-Who": who}).json == [who]


@pytest.mark.parametrize("looks", ["ctx.headers.x_token", "ctx.headers['X-Token']"])
def test_a_contract_on_a_header_does_not_make_the_key_go_by_it(site: Open, lua: str, looks: str) -> None:
    api = site(
        f"""
        app:before(function(ctx) if {looks} ~= "s3cret" then return 401, "x" end end)
        local options = {{ headers = {{ x_token = v.optional(v.string) }}, cache = {{ ttl = 60, query = "q" }} }}
        options.cache.vary = {{ "x-token", "accept" }}
        options.cache.key = function(ctx) return (ctx.headers.accept == "x" and "" or "") .. ctx.query.q end
        app:get("/x", options, function() return {{ "private" }} end)
        options.cache.key = function(ctx) return ctx.query.q .. ({looks} or "") end
        app:get("/y", options, function() return {{ "private" }} end)""",
        lua=lua,
    )
    for path in ("/x", "/y"):
        for _ in range(2):
            assert api.ask(f"{path}?q=1").status == 401
            assert api.ask(f"{path}?q=1", headers={"X-Token": "s3cret"}).json == ["private"]
    assert api.figures("entries", "hits") == (1, 1)


def test_without_a_key_a_refresh_may_look_at_all_that_is_named(site: Open) -> None:
    api = site(
        """
        local runs = 0
        app:get("/x", { cache = { ttl = 10, stale = 50, vary = "x-who" } }, function(ctx)
          runs = runs + 1
          return runs > 1 and { ctx.headers.x_who, runs } or { "nobody", runs }
        end)"""
    )
    ann = {"X-Who": "ann"}
    assert api.ask("/x", headers=ann).json == ["nobody", 1]
    api.now += 15
    assert api.ask("/x", headers=ann).json == ["nobody", 1]
    api.until(lambda: not api.cache.refreshing)
    assert api.ask("/x", headers=ann).json == ["ann", 2]


def test_a_refresh_may_not_depend_on_what_the_key_left_out(site: Open) -> None:
    api = site(
        """
        local looks = false
        app:get("/looks", function() looks = true end)
        app:get("/x", { cache = { ttl = 10, stale = 50, vary = "x-who", key = function() return "all" end } }, function(ctx)
          return { looks and ctx.headers.x_who or "all", count().n }
        end)"""
    )
    assert [api.ask("/x", headers={"X-Who": who}).json for who in ("ann", "ben")] == [["all", 1], ["all", 1]]
    api.ask("/looks")
    api.now += 15
    assert api.ask("/x", headers={"X-Who": "ann"}).json == ["all", 1]
    api.until(lambda: not api.cache.refreshing)
    assert api.ask("/x", headers={"X-Who": "ben"}).json == ["all", 1]
    api.now += 50
    assert api.ask("/x", headers={"X-Who": "ben"}).json == ["ben", 3]


def test_a_key_sees_only_what_is_named(site: Open, lua: str) -> None:
    api = site(
        """
        app:get("/x/{id}", { cache = { ttl = 60, query = "a", cookies = "c", key = function(ctx)
          return table.concat({ ctx.params.id, ctx.query.a or "-", ctx.query.b or "-", ctx.cookies.c or "-", ctx.cookies.d or "-",
            ctx.method, ctx.path }, " ")
        end } }, count)""",
        lua=lua,
    )
    asked = [("GET", "/x/1?a=1&b=2", "c=1; d=2"), ("HEAD", "/x/1?b=3&a=1", "d=3; c=1"), ("GET", "/x/1?a=1", "c=1")]
    for method, target, cookie in asked:
        api.ask(target, method, {"Cookie": cookie})
    (entry,) = kept(api)
    assert entry.variant == (b"1 1 - 1 - GET /x/1",)
    assert api.figures("hits", "misses") == (2, 1)


def test_credentials_that_are_named_can_be_a_key(site: Open, lua: str) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 60, private = false, vary = "authorization", key = function(ctx)
          return (ctx.headers.authorization or ""):match("^(%w+)")
        end } }, function(ctx) return { (ctx.headers.authorization or ""):match("^(%w+)"), count().n } end)""",
        lua=lua,
    )
    asked = ["team1/ann", "team2/cem", "team1/ben", "team2/dan", "team1/ann"]
    found = [api.ask("/x", headers={"Authorization": who}).json for who in asked]
    assert found == [["team1", 1], ["team2", 2], ["team1", 1], ["team2", 2], ["team1", 1]]


# ------------------------------------------------------------ when it is asked


def test_a_key_holds_as_long_as_its_answer_is_kept(site: Open, lua: str) -> None:
    api = site(BY_DEVICE, lua=lua)
    for agent in ("Mobile 1", "Mobile 2", "Mobile 1"):
        ask(api, agent)
    api.now += 10
    assert [ask(api, agent).json["n"] for agent in ("Mobile 2", "Mobile 1", "Mobile 2")] == [2, 2, 2]
    assert asked_of(api) == ["Mobile 1", "Mobile 2", "Mobile 2", "Mobile 1"]
    api.cache.purge(b"/x", False)
    assert ask(api, "Mobile 1").json["n"] == 3
    assert len(asked_of(api)) == 5


def test_nobody_waits_for_a_key_while_a_stale_answer_is_made_anew(site: Open, lua: str) -> None:
    api = site(BY_DEVICE.replace("ttl = 10", "ttl = 10, stale = 20"), lua=lua)
    agents = ["Mobile 1", "Mobile 2", "Mobile 3"]
    for agent in agents:
        ask(api, agent)
    for runs in (2, 3):
        api.now += 12
        assert ask(api, "Mobile 2").json["n"] == runs - 1
        api.until(lambda: not api.cache.refreshing)
        assert [ask(api, agent).json["n"] for agent in agents] == [runs] * 3
    assert asked_of(api) == agents
    assert (runs_of(api), api.figures("entries")) == (3, (1,))


def test_variants_do_not_follow_to_an_answer_that_depends_on_more(site: Open) -> None:
    """Of two runs at once the second may have looked at what the first did not."""
    api = site(BY_DEVICE)
    ask(api, "Desk 1")
    ask(api, "Desk 2")
    (before,) = kept(api)
    assert len(before.aliases) == 2
    rule = Rule({"ttl": 10, "vary": ["user-agent"], "key": 1})
    for looked, aliases in ((frozenset[str](), 2), (frozenset({"HTTP_USER_AGENT"}), 0)):
        after = Entry(before.path, before.variant, "200 OK", [], b"x", api.cache.security, api.now, 10, 0)
        after.looked = looked
        api.cache.keep(after, rule, ("GET", "HEAD"))
        assert (kept(api), len(after.aliases)) == ({after}, aliases)
    page = api.app.load().lane.pages["/x"]
    assert list(page.entries) == [before.variant]  # type: ignore[attr-defined]


def test_an_answer_by_a_key_can_change_its_key(site: Open, lua: str) -> None:
    api = site(
        """
        local names = { a = "one" }
        local function key(ctx) return names[ctx.query.who] or "two" end
        app:get("/x", { cache = { ttl = 10, query = { "who" }, key = key } }, count)
        app:get("/move", function(ctx) names.a = "two" end)""",
        lua=lua,
    )
    assert [api.ask(f"/x?who={who}").json["n"] for who in "abab"] == [1, 2, 1, 2]
    api.ask("/move")
    api.now += 5
    api.ask("/x?who=c")
    assert api.ask("/x?who=a").json["n"] == 1, "its answer is kept still"
    api.now += 6
    assert [api.ask(f"/x?who={who}").json["n"] for who in "baba"] == [3, 3, 3, 3]
    assert api.cache.purge(b"/x", False) == 2
    assert api.figures("entries", "bytes") == (0, 0)


def test_of_many_at_once_one_asks_and_one_runs(site: Open, lua: str) -> None:
    gate = Event()
    source = BY_DEVICE.replace("  if agent:find", "  gate()\n  if agent:find", 1)
    api = site(source, expose={"gate": lambda: gate.wait(20) or None}, lua=lua)
    serving = api.app.load()
    api.ask("/hold")
    greenlets = [
        spawn(api, f"Mobile {number % 3}", method="HEAD" if number % 7 == 1 else "GET") for number in range(30)
    ]
    api.until(lambda: api.figures("coalesced") == (27,))
    assert serving.pool.in_use == 3, "one for each that differs asks for the key"
    gate.set()
    api.until(lambda: api.figures("misses", "coalesced") == (1, 29))
    assert (serving.pool.in_use, serving.busy) == (1, True)
    api.ask("/let")
    answers = answers_of(greenlets)
    assert {answer.body for answer in answers} == {b'{"n":1}', b""}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 30
    assert (len(asked_of(api)), runs_of(api)) == (3, 1)
    assert (serving.responder.coming, serving.pool.in_use, len(api.cache.flights)) == (0, 0, 0)
    assert [ask(api, f"Mobile {number}").json for number in range(3)] == [{"n": 1}] * 3
    assert len(asked_of(api)) == 3


def test_who_has_no_key_waits_for_no_other(site: Open, lua: str) -> None:
    api = site(BY_DEVICE, lua=lua)
    api.ask("/hold")
    greenlets = [spawn(api, "Bot") for _ in range(10)]
    api.until(lambda: api.app.load().pool.in_use == 10)
    api.ask("/let")
    assert sorted(answer.json["n"] for answer in answers_of(greenlets)) == list(range(1, 11))


@pytest.mark.parametrize("status", ["timed out", "killed", "overload"])
def test_when_the_one_that_asks_comes_to_nothing_another_one_asks(site: Open, status: str) -> None:
    gate = Event()
    api = site(
        ASKING.replace("  if agent:find", "  if #asked == 1 then gate() end\n  if agent:find", 1)
        + 'app:get("/x", { cache = { ttl = 10, vary = "user-agent", key = key } }, count)',
        expose={"gate": lambda: gate.wait(20) or None},
    )
    greenlets = [spawn(api, "Mobile") for _ in range(10)]
    api.until(lambda: api.figures("coalesced") == (9,))
    serving = api.app.load()
    (slot,) = [slot for slot in serving.pool.slots if slot.call is not None]
    if status == "timed out":
        slot.taken_at -= 100
    elif status == "killed":
        greenlets[0].kill()
    else:
        slot.state = "EXPIRED"
        slot.result.set(Failure(503, "no room"))
    answers = answers_of(greenlets)
    gate.set()
    assert [answer.body for answer in answers[1:]] == [b'{"n":1}'] * 9
    assert status == "killed" or answers[0].status == {"timed out": 504, "overload": 503}[status]
    assert asked_of(api) == ["Mobile", "Mobile"]
    assert (serving.responder.coming, len(api.cache.flights)) == (0, 0)


def test_a_key_that_computes_for_ever_is_stopped(site: Open, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    api = site(
        """
        local asked = 0
        app:get("/x", { cache = { ttl = 10, key = function(ctx)
          asked = asked + 1
          while asked == 1 do end
          return "k"
        end } }, count)""",
        lua=lua,
        cpu_limit=0.1,
    )
    answers = answers_of([api.spawn("/x") for _ in range(5)])
    assert sorted(answer.json["n"] for answer in answers) == [1, 2, 3, 4, 5]
    assert ["age" in api.ask("/x").headers for _ in range(2)] == [False, True]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "cpu_limit" in told


def test_a_purge_while_a_key_is_asked_or_its_answer_made(site: Open, lua: str) -> None:
    api = site(BY_DEVICE + '\napp:get("/purge", function(ctx) return { app:purge("/x") } end)', lua=lua)
    ask(api, "Desk 1")
    assert ask(api, "Desk 2").json == {"n": 1}
    assert api.ask("/purge").json == [1], "an answer is one, whatever leads to it"
    api.ask("/hold")
    before = [spawn(api, "Mobile 1"), spawn(api, "Mobile 2")]
    api.until(lambda: api.figures("misses", "coalesced") == (2, 1))
    api.ask("/purge")
    after = spawn(api, "Mobile 1")
    api.until(lambda: api.figures("misses") == (3,))
    api.ask("/let")
    assert [answer.json["n"] for answer in answers_of([*before, after])] == [2, 2, 3]
    assert ask(api, "Mobile 2").json == {"n": 3}


# ------------------------------------------------------------ a key that fails


FAILING = {
    "a table": (
        "{}",
        "key of cache of app:get /x must give a string, a number, or nil where nothing is kept, not a table",
    ),
    "a boolean": ("true", "not a boolean"),
    "a failure": ("ctx.nothing.at_all", "app.lua:18: attempt to index"),
    "a response": ("response.json({})", "not a table"),
    "what is thrown": ("error(response.error(400))", ""),
    "a stream that is thrown": ("error(response.stream(function(write) write('x') end))", ""),
    "a file that is thrown": ("error(response.file('app.lua'))", ""),
    "too long a string": ("('x'):rep(1025)", ""),
}


@pytest.mark.parametrize("name", FAILING)
def test_where_there_is_no_key_the_request_is_answered_as_without_a_cache(
    site: Open, lua: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    gives, said = FAILING[name]
    api = site(
        f"""
        app:on_error(function() return 418, "x" end)
        app:after(function(ctx, response) response.headers["X-After"] = "yes" end)
        app:get("/x", {{ cache = {{ ttl = 10, query = {{}}, key = function(ctx)
          return {gives}
        end }} }}, function(ctx) return {{ ctx.query.a, count().n }} end)""",
        lua=lua,
    )
    for number, method in enumerate(("GET", "HEAD", "GET"), 1):
        answer = api.ask("/x?a=b", method)
        assert (answer.status, answer.headers.get("x-after")) == (200, "yes")
        assert answer.body == (f'["b",{number}]'.encode() if method == "GET" else b"")
    assert api.figures("entries", "misses", "coalesced") == (0, 0, 0)
    api.until(lambda: api.app.load().pool.in_use == 0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (3 if said else 0), told
    assert not said or said in told[0]
    assert not said or re.search(r"app\.lua:1[78]", told[0]), "where the key stands"


def test_where_there_is_no_room_for_a_key_there_is_none_for_the_handler(site: Open) -> None:
    api = site(
        BY_DEVICE + '\napp:get("/wait", function() while hold do sleep(0.002) end end)', slots=1, queue_timeout=0.05
    )
    api.ask("/hold")
    waiting = api.spawn("/wait")
    api.until(lambda: api.app.load().pool.in_use)
    answers = [ask(api, "Mobile 1"), ask(api, "Mobile 1", method="HEAD")]
    assert [(answer.status, bool(answer.body)) for answer in answers] == [(503, True), (503, False)]
    cache = api.cache
    hold = api.app.load()
    assert (len(cache.flights), hold.responder.coming) == (0, 0)
    slot = next(slot for slot in hold.pool.slots if slot.call is not None)
    slot.taken_at -= 100
    assert waiting.get().status == 504


def test_a_failing_key_is_asked_for_once_by_those_that_ask_at_once(
    site: Open, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Event()
    api = site(
        'app:get("/x", { cache = { ttl = 10, key = function() gate() error("oh") end } }, count)',
        expose={"gate": lambda: gate.wait(20) or None},
    )
    greenlets = [api.spawn("/x") for _ in range(10)]
    api.until(lambda: api.figures("coalesced") == (9,))
    gate.set()
    assert sorted(answer.json["n"] for answer in answers_of(greenlets)) == list(range(1, 11))
    assert len(caplog.records) == 1


def test_a_key_runs_to_its_end_where_its_handler_does(site: Open) -> None:
    source = """
        local function wait() end
        app:get("/a", { on_disconnect = "finish", cache = { ttl = 10, key = wait } }, count)
        app:get("/b", { on_disconnect = "finish", cache = 10 }, count)
        app:get("/c", { cache = { ttl = 10, key = wait } }, count)"""
    serving = site(source).app.load()
    numbers = {route.template: route for route in serving.table.routes}
    key = numbers["/a"].options["cache"]["key"]
    assert serving.pool.finishing == {numbers["/a"].number, numbers["/b"].number, key}
    assert key not in {route.number for route in serving.table.routes}


def test_a_contract_comes_before_the_key(site: Open, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    api = site(
        """
        local v = greenlua.v
        local keys = {}
        app:get("/x", {
          query = v.object { day = v.integer { min = 1, default = 1 } },
          responses = { [200] = v.object { n = v.integer } },
          cache = { ttl = 10, query = { "day" }, key = function(ctx)
            keys[#keys + 1] = ctx.query.day
            return math.floor(ctx.query.day / 7)
          end } }, count)
        app:get("/keys", function() return keys end)""",
        lua=lua,
        dev=True,
    )
    caplog.clear()
    assert [api.ask(f"/x{query}").json["n"] for query in ("", "?day=6", "?day=7", "?day=13")] == [1, 1, 2, 2]
    assert api.ask("/x?day=0").status == 422
    assert api.ask("/keys").json == [1, 6, 7, 13]
    assert not caplog.records, "a key is no answer that the contract says anything of"


def test_hooks_come_after_the_key(site: Open, lua: str) -> None:
    api = site(
        """
        local befores = 0
        app:before(function() befores = befores + 1 end)
        app:get("/befores", function() return { befores } end)"""
        + BY_DEVICE,
        lua=lua,
    )
    for agent in ("Mobile 1", "Mobile 2", "Mobile 3"):
        ask(api, agent)
    assert api.ask("/befores").json == [2]


# ------------------------------------------------------------ bounds


def test_no_more_variants_than_there_is_room_for(site: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ALIASES_MAX", 5)
    api = site(BY_DEVICE.replace("ttl = 10", "ttl = 10, stale = 50"))
    agents = [f"Desk {number}" for number in range(8)]
    for agent in agents:
        assert ask(api, agent).json == {"n": 1}
    assert [len(entry.aliases) for entry in kept(api)] == [5]
    for agent in agents[-5:]:
        assert ask(api, agent).json == {"n": 1}
    assert asked_of(api) == agents, "the last ones are those that stay"
    ask(api, agents[0])
    assert asked_of(api) == [*agents, agents[0]]


def test_variants_take_their_bytes(site: Open) -> None:
    memory = 64000
    api = site(BY_DEVICE.replace("ttl = 10", "ttl = 10, stale = 50"), cache_memory=memory)
    for number in range(40):
        assert ask(api, f"Desk {number}" + "." * 1000).json == {"n": 1}
        assert sum(entry.size for entry in kept(api)) == api.figures("bytes")[0] <= memory // 8
    (entry,) = kept(api)
    assert 3 <= len(entry.aliases) <= 6
    assert list(entry.aliases)[-1][2].startswith("Desk 39")
    before = len(entry.aliases)
    assert ask(api, "Desk" + "." * 9000).json == {"n": 1}, "one too large is asked for each time"
    assert len(entry.aliases) == before, "and drives nobody out"
    asked = len(asked_of(api))
    ask(api, "Desk" + "." * 9000)
    assert len(asked_of(api)) == asked + 1
    ask(api, "Desk 1")
    aliases = list(entry.aliases)
    api.now += 15
    ask(api, "Desk 1")
    api.until(lambda: not api.cache.refreshing)
    assert entry not in kept(api)
    assert [list(entry.aliases) for entry in kept(api)] == [aliases], "they move to the newer answer"
    assert api.cache.purge(b"/", True) == 1
    assert api.figures("entries", "bytes") == (0, 0)
    assert not any(type(page) is cache.CachedPage for page in api.app.load().lane.pages.values())


def test_what_a_variant_takes_is_counted(site: Open) -> None:
    api = site(BY_DEVICE)
    ask(api, "Desk")
    (entry,) = kept(api)
    counted = entry.size
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(2000):
            api.cache.alias(entry, ("", "", f"Desk {number}"))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(entry.aliases) == 2001
    assert taken < entry.size - counted < 2 * taken


def kept(api: CacheSite) -> set[Any]:
    pages = api.app.load().lane.pages.values()
    return {entry for page in pages if type(page) is cache.CachedPage for entry in page.entries.values()}
