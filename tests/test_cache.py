"""The response cache, asked as a WSGI callable: whose answers are the same, which are kept, and what a kept one looks like."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from greenlua.errors import ConfigurationError
from tests.cache_site import COUNTING, CacheSite, Open, objections


def runs_of(site: CacheSite) -> int:
    return int(site.ask("/runs").json["runs"])


# ------------------------------------------------------------ who shares an answer

A, B = {"Accept-Language": "de"}, {"Accept-Language": "en"}
# rule, then groups of requests: within a group all share an answer, and no group shares one with another.
KEYS: dict[str, tuple[str, list[list[Any]]]] = {
    "whole query": (
        "60",
        [["/x", "/x"], ["/x?a=1", "/x?a=1"], ["/x?a=2"], ["/x?a=1&b=2"], ["/x?b=2&a=1"], ["/x?a=%31"]],
    ),
    "headers do not count": ("60", [[("/x", A), ("/x", B), ("/x", {"Cookie": "a=1"})]]),
    "one parameter": (
        '{ ttl = 60, query = { "a" } }',
        [
            ["/x?a=1", "/x?a=1&junk=7", "/x?junk=%31&a=%31", "/x?%61=1", "/x?&&a=1&"],
            ["/x", "/x?b=1", "/x?A=1"],
            ["/x?a=", "/x?a"],
            ["/x?a=1&a=2"],
            ["/x?a=2&a=1"],
            ["/x?a=1%26a%3D2"],
            ["/x?a=b+c", "/x?a=b%20c"],
            ["/x?a=b%2Bc"],
            ["/x?a=%zz", "/x?a=%25zz"],
        ],
    ),
    "two parameters": (
        '{ ttl = 60, query = { "b", "a", "a" } }',
        [["/x?a=1&b=2", "/x?b=2&a=1"], ["/x?a=1"], ["/x?b=1"], ["/x?a=1&b="]],
    ),
    "no parameter": ("{ ttl = 60, query = {} }", [["/x", "/x?a=1", "/x?" + "&".join(["a=1"] * 900)]]),
    "a header": (
        '{ ttl = 60, vary = "Accept-Language" }',
        [[("/x", A), ("/x", A)], [("/x", B)], ["/x"], [("/x?q", A)], [("/x", {"Accept-Language": ""})]],
    ),
    "a cookie": (
        '{ ttl = 60, cookies = { "theme" } }',
        [
            [("/x", {"Cookie": "theme=dark"}), ("/x", {"Cookie": "id=7; theme=dark; theme=light"})],
            ["/x", ("/x", {"Cookie": "id=8"}), ("/x", {"Cookie": "Theme=dark"})],
            [("/x", {"Cookie": " theme = light ;"})],
        ],
    ),
    "the host": (
        '{ ttl = 60, vary = { "host" } }',
        [[("/x", {"Host": "a"}), ("/x", {"Host": "a"})], [("/x", {"Host": "b"})]],
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_requests_share_an_answer_exactly_when_the_rule_says_so(site: Open, name: str) -> None:
    rule, groups = KEYS[name]
    api = site(f'app:get("/x", {{ cache = {rule} }}, count)')
    answers = []
    for group in groups:
        asked = [(request, {}) if isinstance(request, str) else request for request in group]
        found = {api.ask(target, headers=headers).body for target, headers in asked}
        assert len(found) == 1, group
        answers.append(found.pop())
    assert len(set(answers)) == len(groups)
    assert runs_of(api) == len(groups)


def test_each_path_has_its_own(site: Open, lua: str) -> None:
    api = site('app:get("/u/{id}", { cache = 60 }, function(ctx) return { ctx.params.id, count(ctx).n } end)', lua=lua)
    assert [api.ask(path).json for path in ("/u/a", "/u/b", "/u/ä", "/u/a", "/u/ä")] == [
        ["a", 1], ["b", 2], ["ä", 3], ["a", 1], ["ä", 3],
    ]  # fmt: skip


def test_the_handler_is_shown_only_what_the_key_holds(site: Open, lua: str) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 60, query = { "a" }, cookies = { "theme" } } }, function(ctx)
          return { a = ctx.query:all("a"), b = ctx.query.b, theme = ctx.cookies.theme, id = ctx.cookies.id,
            head = ctx.headers.cookie, method = ctx.method }
        end)""",
        lua=lua,
    )
    cookie = {"Cookie": "id=7; theme=dark"}
    first = api.ask("/x?b=evil&a=%C3%A4+1&a=2", headers=cookie, method="HEAD")
    assert (first.status, first.body) == (200, b"")
    expected = {"a": ["ä 1", "2"], "theme": "dark", "head": "theme=dark", "method": "GET"}
    assert api.ask("/x?a=%C3%A4%201&a=2", headers=cookie).json == expected
    assert api.figures("hits", "misses") == (1, 1)


@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("/x", {"headers": {"Authorization": "Basic eA=="}}),
        ("/x", {"body": "who=me", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
        ("/x", {"headers": {"Transfer-Encoding": "chunked"}}),
        ("/q?" + "&".join(["a=1"] * 1001), {}),
        ("/c", {"headers": {"Cookie": "a=1;" * 1001}}),
        ("/x", {"method": "OPTIONS"}),
        ("/x", {"method": "POST"}),
    ],
)
def test_what_may_be_one_persons_goes_past(site: Open, target: str, extras: dict[str, Any]) -> None:
    api = site(
        """
        app:get("/x", { cache = 60 }, count)
        app:get("/q", { cache = { ttl = 60, query = { "b" } } }, count)
        app:get("/c", { cache = { ttl = 60, cookies = { "b" } } }, count)
        app:post("/x", count)"""
    )
    for path in ("/x", "/q", "/c"):
        api.ask(path)
    before = api.cache.statistics()
    api.ask(target, **extras)
    api.ask(target, **extras)
    assert api.cache.statistics() == before


# ------------------------------------------------------------ which answers are kept

NOT_KEPT = {
    # rule, what the handler does, what the log says of it
    "a status": ("60", "return 404, { n = n }", ""),
    "an error": ("60", "return response.error(503)", ""),
    "a failure": ("60", "error('x')", ""),
    "a failure when errors are": ("{ ttl = 60, errors = { 500 } }", "error('x')", ""),
    "Set-Cookie": ("60", 'return 200, "x", { ["Set-Cookie"] = "a=b" }', ""),
    "no-store": ("60", 'return 200, "x", { ["Cache-Control"] = "max-age=5, No-Store" }', ""),
    "private": ("60", 'return 200, "x", { ["cache-control"] = "private" }', ""),
    "no-cache of a field": ("60", "return 200, \"x\", { [\"Cache-Control\"] = 'no-cache=\"x\"' }", ""),
    "Vary: *": ("60", 'return 200, "x", { Vary = "*" }', "its answer says Vary: *"),
    "another Vary": ('{ ttl = 60, vary = "accept" }', 'return 200, "x", { Vary = "Accept, Origin" }', "Vary: Accept, Origin"),
    "a stream": ("60", "return response.stream(function(write) write('x') end)", "files and streams"),
    "a file": ("60", "return response.file('app.lua')", "files and streams"),
    "the cookies": ("60", "return { ctx.cookies.id or 'x' }", "looked at Cookie, so the answer may be for one person only"),
    "a cookie header": ("60", "return { ctx.headers.cookie or 'x' }", "looked at Cookie, so the answer"),
    "Authorization": ("60", "return { ctx.headers.authorization or 'x' }", "looked at Authorization, so the answer"),
    "all headers": (
        '{ ttl = 60, ignore = "*" }',
        "for name in pairs(ctx.headers) do end return 'x'",
        "looked at Authorization, Cookie",
    ),
    "a header": ("60", "return ctx.headers['x-api-key'] or 'x'", "looked at X-Api-Key, on which other requests"),
    "a header of many": (
        '{ ttl = 60, ignore = "*" }',
        "for i = 1, 100 do local _ = ctx.headers['x' .. i] end return ctx.headers.cookie or 'x'",
        "looked at Authorization, Cookie",
    ),
    "the address": ("60", "return ctx.client_ip", "looked at client_ip, on which"),
    "the host": ("60", "return ctx.host", "looked at Host, on which"),
    "the scheme": ("60", "return ctx.scheme", "looked at scheme, on which"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_KEPT)
def test_an_answer_that_is_not_for_all_is_not_kept(
    site: Open, lua: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rule, code, said = NOT_KEPT[name]
    api = site(f'app:get("/x", {{ cache = {rule} }}, function(ctx) local n = count(ctx).n {code} end)', lua=lua)
    first, second = api.ask("/x"), api.ask("/x")
    assert first.status == second.status
    assert "age" not in second.headers
    assert runs_of(api) == 2
    assert api.figures("stored", "entries", "bytes") == (0, 0, 0)
    told = objections(caplog)
    assert len(told) == (1 if said else 0)
    if said:
        assert said in told[0]
        line = COUNTING.count("\n") + 2
        assert told[0].startswith(f"app.lua:{line}: an answer of GET /x is not kept: ")


KEPT = {
    "nothing looked at": ("60", "return 'x'"),
    "the cookies, for all": ("{ ttl = 60, private = false }", "return ctx.cookies.id or ctx.headers.authorization or 'x'"),
    "the cookies in vary": ('{ ttl = 60, vary = "cookie" }', "return ctx.cookies.id or 'x'"),
    "named cookies": ('{ ttl = 60, cookies = { "id" } }', "return ctx.cookies.id or 'x'"),
    "a header in vary": ('{ ttl = 60, vary = "x-a" }', "return 200, ctx.headers.X_A or 'x', { Vary = 'X-A, Host' }"),
    "a header that is ignored": ('{ ttl = 60, ignore = { "user-agent", "client_ip", "scheme" } }',
        "return ctx.headers.user_agent and ctx.client_ip and ctx.scheme or 'x'"),
    "all other headers": ('{ ttl = 60, ignore = "*" }', "return ctx.headers.user_agent or 'x'"),
    "host and scheme": ('{ ttl = 60, vary = "host" }', "return ctx.scheme .. ctx.host"),
    "404 when asked": ("{ ttl = 60, errors = true }", "return 404, 'x'"),
    "410 when asked": ("{ ttl = 60, errors = true }", "return response.error(410)"),
    "a status when asked": ("{ ttl = 60, errors = { 503, 204 } }", "return response.error(503)"),
    "no content when asked": ("{ ttl = 60, errors = { 503, 204 } }", "return nil"),
    "what on_error says": ("{ ttl = 60, errors = { 500 } }, on_error = function() return 500, 'x' end", "error('x')"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_an_answer_for_all_is_kept(site: Open, lua: str, name: str) -> None:
    rule, code = KEPT[name]
    api = site(f'app:get("/x", {{ cache = {rule} }}, function(ctx) count(ctx) {code} end)', lua=lua)
    first, second = api.ask("/x"), api.ask("/x")
    assert (first.status, second.headers["age"]) == (second.status, "0")
    assert runs_of(api) == 1
    third = api.ask("/x", headers={"Authorization": "Basic eA=="})
    assert ("age" in third.headers) == ("private = false" in rule)


def test_what_a_hook_looked_at_counts(site: Open, lua: str) -> None:
    api = site(
        """
        app:before(function(ctx) if ctx.headers.authorization == "no" then return 401 end end)
        app:get("/x", { cache = 60 }, count)""",
        lua=lua,
    )
    api.ask("/x")
    assert "age" not in api.ask("/x").headers


def test_a_kept_problem_names_no_request_of_somebody_else(site: Open) -> None:
    api = site(
        'app:get("/x", { cache = { ttl = 60, errors = true } }, function() return response.error(404, "gone") end)'
    )
    answers = [api.ask("/x", headers={"X-Request-ID": f"r{number}"}) for number in range(3)]
    assert [answer.headers["x-request-id"] for answer in answers] == ["r0", "r1", "r2"]
    assert answers[2].json == {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "gone"}
    assert answers[2].headers["content-type"] == "application/problem+json"


# ------------------------------------------------------------ what a kept answer looks like


def test_a_hit_is_the_answer_with_its_age(site: Open, lua: str) -> None:
    api = site('app:get("/x", { cache = { ttl = 60, vary = { "accept", "host" }, stale = 5 } }, count)', lua=lua)
    first = api.ask("/x")
    assert "age" not in first.headers
    assert first.headers["cache-control"] == "public, max-age=60, stale-while-revalidate=5"
    assert first.headers["vary"] == "Accept"
    assert len(first.headers["etag"]) == 34
    for age in (0, 1, 59):
        api.now = 1000.9 + age
        hit = api.ask("/x")
        assert hit.headers.pop("age") == str(age)
        assert hit.headers.pop("x-request-id") != first.headers["x-request-id"]
        assert (hit.status, hit.body) == (200, first.body)
        assert hit.headers == {name: value for name, value in first.headers.items() if name != "x-request-id"}
    head = api.ask("/x", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(first.body)))


def test_headers_of_the_handlers_own_win(site: Open) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 60, vary = "accept" } }, function()
          return 200, "x",
            { ETag = 'W/"mine"', ["cache-control"] = "max-age=5", Vary = "ACCEPT", Age = "7", ["X-A"] = { "1", "2" } }
        end)"""
    )
    for answer in (api.ask("/x"), api.ask("/x")):
        names = [name.lower() for name, _ in answer.all_headers]
        assert [names.count(name) for name in ("etag", "cache-control", "vary", "x-a")] == [1, 1, 1, 2]
        assert answer.headers["etag"] == 'W/"mine"'
        assert answer.headers["cache-control"] == "max-age=5"
        assert answer.headers.get("age") in (None, "0")


@pytest.mark.parametrize(
    ("condition", "status"),
    [("{}", 304), ("W/{}", 304), ('"other", {}', 304), ("*", 304), ('"other"', 200), ("", 200)],
)
def test_who_has_it_already_gets_304(site: Open, condition: str, status: int) -> None:
    api = site('app:get("/x", { cache = 60 }, count)')
    etag = '"9c7"'
    for _ in range(2):
        answer = api.ask("/x", headers={"If-None-Match": condition.format(etag)})
        etag = answer.headers["etag"]
    for method in ("GET", "HEAD"):
        answer = api.ask("/x", method=method, headers={"If-None-Match": condition.format(etag)})
        assert answer.status == status
        assert ("content-type" in answer.headers) == ("content-length" in answer.headers) == (status == 200)
        assert answer.headers["etag"] == etag
        assert answer.headers["age"] == "0"
    assert runs_of(api) == 1


def test_a_condition_never_reaches_the_handler_of_a_kept_answer(site: Open) -> None:
    api = site(
        """
        app:get("/x", { cache = { ttl = 60, vary = { "if-none-match", "range" } } }, function(ctx)
          return { ctx.headers.if_none_match or "none", ctx.headers.range or "none" }
        end)"""
    )
    assert api.ask("/x", headers={"If-None-Match": "*", "Range": "bytes=0-0"}).status == 304
    answer = api.ask("/x", headers={"If-None-Match": '"z"', "Range": "bytes=0-0"})
    assert (answer.status, answer.json) == (200, ["none", "none"])


def test_a_condition_says_nothing_of_an_error(site: Open) -> None:
    api = site('app:get("/x", { cache = { ttl = 60, errors = true } }, function() return 404, "x" end)')
    assert [api.ask("/x", headers={"If-None-Match": "*"}).status for _ in range(2)] == [404, 404]


def test_security_headers_follow_the_scheme_of_each_request(site: Open) -> None:
    api = site('app:get("/x", { cache = 60 }, count)', security_headers="strict")
    for scheme in ("https", "http", "https", "http"):
        answer = api.ask("/x", scheme=scheme)
        assert ("strict-transport-security" in answer.headers) == (scheme == "https")
        assert answer.headers["x-frame-options"] == "DENY"
    assert runs_of(api) == 1


def test_a_head_handler_of_its_own_is_asked(site: Open) -> None:
    api = site(
        """
        app:get("/x", { cache = 60 }, count)
        app:head("/x", function() count() return 200, nil, { ["X-Head"] = "yes" } end)"""
    )
    assert [api.ask("/x").json["n"], api.ask("/x", method="HEAD").headers["x-head"], runs_of(api)] == [1, "yes", 2]
    assert "x-head" in api.ask("/x", method="HEAD").headers


def test_hits_come_through_falcon_when_it_has_middleware(site: Open) -> None:
    seen = []

    class Middleware:
        def process_request(self, req: Any, resp: Any) -> None:
            seen.append(req.path)

    api = site('app:get("/x", { cache = 60 }, count)\napp:constant("/c", "text")')
    api.app.falcon.add_middleware(Middleware())
    assert [api.ask("/x").json, api.ask("/x").json] == [{"n": 1}, {"n": 1}]
    hit = api.ask("/x", headers={"X-Request-ID": "mine"})
    assert (hit.headers["age"], hit.headers["x-request-id"]) == ("0", "mine")
    assert api.ask("/x", headers={"If-None-Match": "*"}).status == 304
    assert (api.ask("/x", method="HEAD").body, api.ask("/c").body, api.ask("/c", method="HEAD").body) == (
        b"",
        b"text",
        b"",
    )
    assert seen == ["/x"] * 5 + ["/c"] * 2
    assert api.figures("hits", "misses") == (4, 1)


# ------------------------------------------------------------ time and room


def test_an_answer_is_given_until_its_time_is_over(site: Open, lua: str) -> None:
    api = site('app:get("/x", { cache = 2.5 }, count)', lua=lua)
    found = []
    for at in (0, 1, 2.4, 2.5, 4.9, 5):
        api.now = 1000 + at
        found.append(api.ask("/x").json["n"])
    assert found == [1, 1, 1, 2, 2, 3]
    assert api.ask("/x").headers["cache-control"] == "public, max-age=2"
    assert api.figures("entries", "stored") == (1, 3)


def test_the_least_recently_used_goes_first(site: Open) -> None:
    api = site(
        'app:get("/{id}", { cache = 60 }, function(ctx) return ctx.params.id .. count().n .. (" "):rep(2000) end)',
        cache_memory=40000,
    )
    api.ask("/old")
    api.ask("/used")
    for number in range(20):
        api.ask(f"/{number}")
        assert api.ask("/used").body.startswith(b"used2 ")
        assert api.cache.store.size <= 40000
    assert api.ask("/old").body.startswith(b"old23 ")
    entries, size, evicted = api.figures("entries", "bytes", "evicted")
    assert entries == 23 - evicted
    assert size == sum(entry.size for entry in api.cache.store._order)
    assert len(api.app.load().lane.pages) == entries + 2  # and the two probes


def test_an_answer_too_large_is_not_kept(site: Open, caplog: pytest.LogCaptureFixture) -> None:
    source = 'app:get("/x/{n:int}", { cache = 60 }, function(ctx) count() return (" "):rep(ctx.params.n) end)'
    api = site(source, cache_memory=80000)
    for size in (5000, 5000, 10000, 10000):
        assert len(api.ask(f"/x/{size}").body) == size
    assert runs_of(api) == 3
    assert "bytes is more than one 8th of the setting cache_memory" in caplog.text


def test_junk_costs_its_bytes_and_no_more(site: Open) -> None:
    api = site('app:get("/{id}", { cache = 60 }, function(ctx) return "x" end)', cache_memory=400_000)
    for number in range(200):
        api.ask(f"/{number}{'p' * 3000}?{'q' * 3000}")
    entries, size = api.figures("entries", "bytes")
    assert 400_000 * 0.95 < size <= 400_000
    assert 40 <= entries <= 55
    assert not api.cache.flights


def test_the_room_can_be_none(site: Open) -> None:
    api = site('app:get("/x", { cache = 60 }, function(ctx) return ctx.cookies.a or count() end)', cache_memory=0)
    answers = [api.ask("/x") for _ in range(2)]
    assert [answer.json["n"] for answer in answers] == [1, 2]
    assert "cache-control" not in answers[1].headers


def test_a_reload_begins_with_nothing(site: Open) -> None:
    api = site('app:get("/x", { cache = 60 }, count)\napp:get("/p", function() return { app:purge("/x") } end)')
    api.ask("/x")
    api.app.reload()
    assert api.figures("entries") == (0,)
    assert "age" not in api.ask("/x").headers
    assert api.ask("/p").json == [1]


# ------------------------------------------------------------ beside a contract


CONTRACT = 'headers = { ["x-token"] = v.string { min = 3 } }'
GREET = 'function(ctx) return "for " .. ctx.headers["x-token"] end'


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            f"cache = 60, {CONTRACT}",
            "has x-token, so answers may depend on it and none would be kept; name it in vary of its cache, or",
        ),
        (f'cache = {{ ttl = 60, ignore = "x-token", key = key }}, {CONTRACT}', "has x-token, so answers may"),
        (
            'cache = { ttl = 60, ignore = "*" }, headers = { authorization = v.string }',
            "has authorization, so answers may",
        ),
        (
            'cache = { ttl = 60, query = "page" }, query = { page = v.integer, size = v.optional(v.integer) }',
            "has size, but the query of its cache does not name that, so it would be taken out of each request",
        ),
    ],
)
def test_a_contract_and_a_cache_that_contradict_each_other_stop_the_start(site: Open, options: str, said: str) -> None:
    with pytest.raises(
        ConfigurationError,
        match=f"app.lua:{COUNTING.count(chr(10)) + 2}: the option .* of app:get /x {re.escape(said)}",
    ):
        site(f'local function key() end app:get("/x", {{ {options} }}, count)')


@pytest.mark.parametrize(
    "options",
    [
        'cache = { ttl = 60, vary = "x-token", key = key }, ' + CONTRACT,
        'cache = { ttl = 60, ignore = "X-Token" }, ' + CONTRACT,
        'cache = { ttl = 60, ignore = "*" }, ' + CONTRACT,
        "cache = { ttl = 60, private = false }, headers = { authorization = v.string, ['x-token'] = nil }",
        'cache = { ttl = 60, cookies = "id" }, headers = { cookie = v.optional(v.string) }',
    ],
)
def test_a_contract_of_what_the_cache_knows_is_kept(site: Open, options: str) -> None:
    api = site(f'local function key() return "k" end app:get("/x", {{ {options} }}, count)')
    headers = {"X-Token": "abc", "Authorization": "me"} if "private" in options else {"X-Token": "abc"}
    assert [api.ask("/x", headers=headers).headers.get("age") for _ in range(3)] == [None, "0", "0"]


def test_a_file_is_sent_as_far_as_the_client_wants_it(site: Open, lua: str) -> None:
    """It is not kept, so the conditions and ranges of each request hold."""
    api = site('app:get("/f", { cache = 60 }, function() return response.file("app.lua") end)', lua=lua)
    whole = api.ask("/f")
    assert (whole.status, whole.headers["accept-ranges"]) == (200, "bytes")
    time.sleep(1.1)  # until then the file's ETag is a weak one
    etag = api.ask("/f").headers["etag"]
    for method in ("GET", "HEAD"):
        assert api.ask("/f", method, {"If-None-Match": etag}).status == 304
        part = api.ask("/f", method, {"Range": "bytes=1-3"})
        assert (part.status, part.body) == ((206, whole.body[1:4]) if method == "GET" else (200, b""))
    assert api.ask("/f", headers={"If-Match": '"other"'}).status == 412
    assert api.figures("stored") == (0,)


def test_headers_of_a_contract_that_the_rule_names_are_part_of_the_key(site: Open, lua: str) -> None:
    api = site(f'app:get("/x", {{ cache = {{ ttl = 60, vary = "x-token" }}, {CONTRACT} }}, {GREET})', lua=lua)
    for token in ("ada", "bob", "ada", "bob"):
        assert api.ask("/x", headers={"X-Token": token}).body == f"for {token}".encode()
    assert api.ask("/x").status == 422
    assert api.ask("/x", headers={"X-Token": "a"}).status == 422
    assert api.app.statistics()["cache"]["hits"] == 2


def test_a_contract_judges_the_query_that_the_handler_is_shown(site: Open) -> None:
    options = 'cache = { ttl = 60, query = { "page" } }, query = { page = v.integer { default = 1 } }'
    api = site(f'app:get("/x", {{ {options} }}, function(ctx) return tostring(ctx.query.page) end)')
    assert [api.ask(f"/x{query}").body for query in ("?page=2", "?page=2&junk=1", "", "?junk=2")] == [
        b"2",
        b"2",
        b"1",
        b"1",
    ]
    assert api.ask("/x?page=two").status == 422
    assert api.ask("/x?page=two").status == 422
