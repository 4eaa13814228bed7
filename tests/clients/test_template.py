"""greenlua.template: what a template may do, what it may not, and what it costs; then what Lua sees of it, on every Lua."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent
import jinja2
import pytest
from greenlet import GreenletExit
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS

from greenlua.clients import Clients
from greenlua.clients.template import SOURCE_MAX, Client
from greenlua.clients.template_budget import OUTPUT_MAX, TemplateLimitError
from greenlua.clients.template_filters import BOUNDED
from greenlua.clients.template_sandbox import TEXT_METHODS
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings
from greenlua.vm import MODULES
from tests.clients.running_lua import LuaProcess, running_lua, wait_until

Write = Callable[..., Path]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(Settings(), tmp_path.resolve())


def text(client: Client, source: str, **values: Any) -> str:
    return client.render_string(source, values).decode()


def page(client: Client, name: str, **values: Any) -> str:
    return client.render(name, values).decode()


# ------------------------------------------------------------ what a template makes of values

TABLE = {"title": "T", "items": [1, 2], "values": "v", "get": 5, "inner": {"keys": None}}
# source, page; the values are those of TABLE under the name t
PAGES: list[tuple[str, str]] = [
    ("{{ t.title }} {{ t['title'] }} {{ t.inner.keys }}|", "T T |"),
    ("{{ t.items|join(',') }} {{ t.values }} {{ t.get }}", "1,2 v 5"),  # fields go before methods
    ("{% for key, value in {'a': 1}.items() %}{{ key }}={{ value }}{% endfor %}", "a=1"),
    ("{% for key, value in t|items %}{{ key }} {% endfor %}", "title items values get inner "),
    ("{% for key in t|dictsort %}{{ key[0] }} {% endfor %}", "get inner items title values "),
    ("{{ true }} {{ false }} {{ none }}|{{ 1 }} {{ 1.5 }} {{ 2.0 }}", "true false |1 1.5 2.0"),
    ("{{ '<&\"' }} {{ '<b>'|safe }} {{ '<b>'|escape }}", "&lt;&amp;&#34; <b> &lt;b&gt;"),
    ("{{ '<b>'|safe ~ '<' ~ 1 ~ true ~ none }} {{ 'a' ~ 1 }}", "<b>&lt;1true a1"),
    ("{% autoescape false %}{{ '<' }}{% endautoescape %}", "<"),
    ("{{ 'abc'[1:] }} {{ 'abc'[:-1] }} {{ 'abc'[::2] }} {{ [1, 2, 3][1:]|join }} {{ 'abc'[0] }}", "bc ab ac 23 a"),
    ("{{ 1 + 2 * 3 ** 2 - 4 / 2 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ -3 }} {{ 'a' + 'b' }} {{ 'ab' * 2 }}", "17.0 3 3 -3 ab abab"),
    ("{{ ([1] + [2]) * 2 == [1, 2, 1, 2] }} {{ 2 * 'x' }} {{ 'x' * -1 }}|", "true xx |"),
    ("{{ '%s is %05.1f%%' % ('<x>', 2.25) }} {{ '%(a)d' % {'a': 3} }} {{ '%x' % 255 }}", "&lt;x&gt; is 002.2% 3 ff"),
    ("{{ '%s-%s'|format('a', true) }} {{ '%(n)s'|format(n=none) }}|", "a-true |"),
    ("{{ 'Grüße'|upper }} {{ 'a-b c'|title }} {{ ' x '|trim }} {{ 'abcdefghi'|truncate(3, true, '') }}", "GRÜSSE A-B C x abc"),
    ("{{ 'x'|center(5) }}| {{ 'a\\nb'|indent(2) }}", "  x  | a\n  b"),
    ("{{ 'aXa'|replace('a', '<') }} {{ 'a b'|wordcount }} {{ '<b>x</b>'|striptags }}", "&lt;X&lt; 2 x"),
    ("{{ [3, 1, 2]|sort|join(',') }} {{ [1, 2]|sum }} {{ [{'n': 1}, {'n': 2}]|sum('n') }}", "1,2,3 3 3"),
    ("{{ [{'n': 'a'}, {'n': 'b'}]|map(attribute='n')|join('-') }} {{ ['a']|map('upper')|first }}", "a-b A"),
    ("{{ [1, 2, 3, 4]|select('even')|list|length }} {{ [1, 1]|unique|list|length }} {{ [1, 2]|reverse|join }}", "2 1 21"),
    ("{% for row in [1, 2, 3]|batch(2, 'x') %}{{ row|join }};{% endfor %}", "12;3x;"),
    ("{% for column in [1, 2, 3]|slice(2) %}{{ column|join }};{% endfor %}", "12;3;"),
    ("{% for g in [{'k': 1, 'v': 2}]|groupby('k') %}{{ g.grouper }}{{ g.list[0].v }}{% endfor %}", "12"),
    ("{{ '7'|int + 1 }} {{ 'x'|int(9) }} {{ '1.5'|float }} {{ 1.25|round(1) }} {{ -1|abs }}", "8 9 1.5 1.2 1"),
    ("{{ {'a': ['<', none, true]}|tojson }}", '{"a": ["\\u003c", null, true]}'),
    ("<p{{ {'id': 1, 'class': none, 'title': '<'}|xmlattr }}>", '<p id="1" title="&lt;">'),
    ("{{ 'a b/ö'|urlencode }} {{ {'q': 'a&b'}|urlencode }} {{ 10000|filesizeformat }}", "a%20b/%C3%B6 q=a%26b 10.0 kB"),
    ("{{ missing is defined }} {{ missing|default('d') }} {{ t.nope|default('d') }}", "false d d"),
    ("{{ 'a,b'.split(',')|join('+') }} {{ 'Ab'.lower() }} {{ 'ab'.startswith('a') }} {{ [1, 1].count(1) }}", "a+b ab true 2"),
    ("{{ range(3)|join }} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}", "012 aba"),
    ("{% for i in 'ab' %}{{ loop.index }}{{ loop.last }}{{ loop.cycle('x', 'y') }} {% endfor %}", "1falsex 2truey "),
    ("{% for i in [] %}x{% else %}none{% endfor %}{% for i in {} %}x{% else %}none{% endfor %}", "nonenone"),
    ("{% for n in [[1], []] recursive %}<{{ loop(n) if n is sequence }}>{% endfor %}", "<<>><>"),
    ("{% macro m(x, y='<') %}<i>{{ x }}{{ y }}</i>{% endmacro %}{{ m('&') }}", "<i>&amp;&lt;</i>"),
    ("{% macro m() %}[{{ caller('<') }}]{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}", "[&lt;]"),
    ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
    ("{% set x %}<p>{{ '<' }}{% endset %}{{ x }} {% filter upper %}a{% endfilter %}", "<p>&lt; A"),
    ("{% if t.items %}some{% endif %}{% if {} %}empty{% endif %} {{ 'y' if t else 'n' }}", "some y"),
    ("{# hidden #}{% raw %}{{ raw }}{% endraw %}", "{{ raw }}"),
    ("{{ dict(a=1).a }} {% with a = 1 %}{{ a }}{% endwith %} {% set j = joiner('|') %}{{ j() }}a{{ j() }}b", "1 1 a|b"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), PAGES, ids=[source[:50] for source, _ in PAGES])
def test_a_template_makes(client: Client, source: str, expected: str) -> None:
    assert text(client, source, t=TABLE) == expected
    assert text(client, source, t=TABLE) == expected, "the second time it is compiled already"


def test_filters_take_what_those_of_jinja_take() -> None:
    """Under the same names, so that Jinja's documentation holds."""
    for name, ours in BOUNDED.items():
        theirs = FILTERS[name]
        if ours is theirs or hasattr(ours, "__wrapped__") or name in ("format", "escape", "e"):
            continue
        names = [
            [
                parameter
                for parameter in inspect.signature(function).parameters
                if parameter not in ("eval_ctx", "environment")
            ]
            for function in (ours, theirs)
        ]
        assert names[0][1:] == names[1][1:], name


def test_only_filters_on_purpose_are_missing() -> None:
    assert set(FILTERS) - set(BOUNDED) == {"attr", "pprint", "urlize"}
    assert set(BOUNDED) <= set(FILTERS)


ESCAPED = ("a.html", "a.htm", "a.xml", "A.HTML", "a.svg", "a.html.j2", "a", "a.txt.html")
PLAIN = ("a.txt", "mail.TXT", "a.md", "a.csv", "a.text")


@pytest.mark.parametrize("name", [*ESCAPED, *PLAIN])
def test_all_but_plain_text_is_escaped(client: Client, write: Write, name: str) -> None:
    write("{{ x }}", name)
    assert page(client, name, x="<") == ("&lt;" if name in ESCAPED else "<")


# ------------------------------------------------------------ templates of the folder


def test_templates_extend_include_and_import_one_another(client: Client, write: Write) -> None:
    write("<title>{% block title %}{% endblock %}</title>{% block body %}base{% endblock %}", "layouts/base.html")
    write("{% macro field(name) %}<input name='{{ name }}'>{% endmacro %}", "parts/forms.html")
    write("{{ user }}!", "parts/greeting.html")
    write(
        "{% extends 'layouts/base.html' %}{% from 'parts/forms.html' import field %}{% import 'parts/forms.html' as forms %}"
        "{% block title %}{{ title }}{% endblock %}"
        "{% block body %}{{ super() }} {% include 'parts/greeting.html' %} {{ field('a') }}{{ forms.field('<') }}"
        "{{ self.title() }}{% include 'parts/none.html' ignore missing %}{% endblock %}",
        "page.html",
    )
    expected = "<title>T</title>base Ada! <input name='a'><input name='&lt;'>T"
    assert page(client, "page.html", title="T", user="Ada") == expected
    assert text(client, "{% include 'page.html' %}", title="T", user="Ada") == expected


def test_a_changed_template_is_read_again(client: Client, write: Write) -> None:
    write("{% include 'part.html' %} 1", "page.html")
    write("a", "part.html")
    assert page(client, "page.html") == "a 1"
    write("bb", "part.html")
    assert page(client, "page.html") == "bb 1"
    path = write("{% include 'part.html' %} 2", "page.html")
    os.utime(path, ns=(1, 1))
    assert page(client, "page.html") == "bb 2"
    path.unlink()
    with pytest.raises(jinja2.TemplateNotFound):
        page(client, "page.html")


def test_a_template_is_read_once_until_it_changes(client: Client, write: Write) -> None:
    write("x", "page.html")
    assert client._environment.get_template("page.html") is client._environment.get_template("page.html")


REFUSED_NAMES = {
    "": "no part of a path is empty",
    "/etc/hostname": "paths are relative",
    "..": "begins with a dot",
    "../secret.html": "begins with a dot",
    "a/../../secret.html": "begins with a dot",
    "./page.html": "begins with a dot",
    "a//page.html": "no part of a path is empty",
    "page.html/": "no part of a path is empty",
    ".env": "begins with a dot",
    ".git/config": "begins with a dot",
    "a\0.html": "it is no path",
    "a\\page.html": "it is no path",
    "x" * 2000: "it is no path",
    "out.html": "leads out of the app's folder",
    "folder/secret.html": "leads out of the app's folder",
    "around.html": "there is no template",
    "missing.html": "there is no template",
    "sub": "is no regular file",
    "pipe.html": "is no regular file",
    "large.html": "is larger than 1 MiB",
    "latin.html": "is not valid UTF-8",
    "x" * 300: "there is no template",
}


@pytest.fixture
def guarded(tmp_path: Path) -> Client:
    """A client of the folder app, beside which lies a secret."""
    app = tmp_path / "app"
    (app / "sub").mkdir(parents=True)
    (tmp_path / "secret.html").write_text("secret")
    (app / "page.html").write_text("page")
    (app / ".env").write_text("secret")
    (app / "out.html").symlink_to(tmp_path / "secret.html")
    (app / "folder").symlink_to(tmp_path)
    (app / "in.html").symlink_to("page.html")
    (app / "around.html").symlink_to("around.html")
    os.mkfifo(app / "pipe.html")
    (app / "large.html").write_text("x" * (SOURCE_MAX + 1))
    (app / "latin.html").write_bytes(b"\xe4")
    return Client(Settings(), app.resolve())


@pytest.mark.parametrize("name", REFUSED_NAMES, ids=lambda name: repr(name[:20]))
def test_nothing_but_templates_of_the_folder_is_read(guarded: Client, name: str) -> None:
    for source in (None, "{% include name %}", "{% extends name %}", "{% import name as x %}"):
        with pytest.raises(jinja2.TemplateNotFound) as caught:
            guarded.render_string(source, {"name": name}) if source else guarded.render(name, {})
        assert REFUSED_NAMES[name] in str(caught.value)
        assert len(str(caught.value)) < 250


def test_links_within_the_folder_are_followed(guarded: Client) -> None:
    assert page(guarded, "in.html") == "page"
    with pytest.raises(jinja2.TemplateNotFound):
        guarded.render(b"\xff.html", {})


# ------------------------------------------------------------ errors

# the file page.html, the error's type, its text
ERRORS: list[tuple[str, type[Exception], str]] = [
    ("a\n{{ nope }}", jinja2.UndefinedError, "page.html:2: 'nope' is undefined"),
    ("\n\n{{ nope.field }}", jinja2.UndefinedError, "page.html:3: 'nope' is undefined"),
    ("{{ t.nope }}", jinja2.UndefinedError, "page.html:1: the table has no field 'nope'"),
    ("{{ t['no' ~ 'pe'] }}", jinja2.UndefinedError, "page.html:1: the table has no field 'nope'"),
    ("{{ t.inner.nope.deeper }}", jinja2.UndefinedError, "page.html:1: the table has no field 'nope'"),
    ("{{ t.items[7] }}", jinja2.UndefinedError, "page.html:1: list object has no element 7"),
    ("{% if nope %}{% endif %}", jinja2.UndefinedError, "page.html:1: 'nope' is undefined"),
    ("{% for x in nope %}{% endfor %}", jinja2.UndefinedError, "page.html:1: 'nope' is undefined"),
    ("{{ nope ~ 'x' }}", jinja2.UndefinedError, "page.html:1: 'nope' is undefined"),
    ("{{ nope|upper }}", jinja2.UndefinedError, "page.html:1: 'nope' is undefined"),
    ("a\nb\n{% if %}", jinja2.TemplateSyntaxError, "page.html:3: Expected an expression, got 'end of statement block'"),
    ("{{ 1", jinja2.TemplateSyntaxError, "page.html:1: unexpected end of template, expected 'end of print statement'."),
    ("{{ x|nope }}", jinja2.TemplateSyntaxError, "page.html:1: No filter named 'nope'."),
    ("{% include 'nope.html' %}", jinja2.TemplateNotFound, "page.html:1: there is no template 'nope.html' in the app's folder"),
    ("\n{% include 'broken.html' %}", jinja2.TemplateSyntaxError, "broken.html:2: unexpected '}'"),
    ("\n{% include 'undefined.html' %}", jinja2.UndefinedError, "undefined.html:4: 'nope' is undefined"),
    ("{% from 'macros.html' import m %}\n{{ m() }}", jinja2.UndefinedError, "macros.html:2: 'nope' is undefined"),
    ("{% extends 'base.html' %}\n{% block b %}\n{{ nope }}{% endblock %}", jinja2.UndefinedError, "page.html:3: 'nope' is"),
    ("{{ ''.__class__ }}", SecurityError, "page.html:1: access to attribute '__class__' of 'str' object is unsafe."),
    ("{{ 1 / 0 }}", jinja2.TemplateRuntimeError, "page.html:1: ZeroDivisionError: division by zero"),
    ("{{ 'a' + 1 }}", jinja2.TemplateRuntimeError, 'page.html:1: TypeError: can only concatenate str (not "int") to str'),
    ("{{ '%d' % 'a' }}", jinja2.TemplateRuntimeError, "page.html:1: TypeError: %d format: a real number is required, not str"),
    ("{{ '%s' % () }}", jinja2.TemplateRuntimeError, "page.html:1: TypeError: not enough arguments for format string"),
    ("{{ t }}", jinja2.TemplateRuntimeError, "page.html:1: a table cannot be written into a page; write its fields, loop"),
    ("{{ t.items ~ 'x' }}", jinja2.TemplateRuntimeError, "page.html:1: a table cannot be written"),
    ("{{ [t]|join }}", jinja2.TemplateRuntimeError, "page.html:1: a table cannot be written"),
    ("{{ 'x'.upper }}", jinja2.TemplateRuntimeError, "page.html:1: a builtin_function_or_method cannot be written"),
    ("{{ range(200000) }}", TemplateLimitError, "page.html:1: a range has at most 100000 numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "kind", "message"), ERRORS, ids=[source for source, *_ in ERRORS])
def test_an_error_names_template_line_and_what(
    client: Client, write: Write, source: str, kind: type[Exception], message: str
) -> None:
    write(source, "page.html")
    write("\n{{ }", "broken.html")
    write("\n\n\n{{ nope }}", "undefined.html")
    write("{% macro m() %}\n{{ nope }}{% endmacro %}", "macros.html")
    write("base{% block b %}{% endblock %}", "base.html")
    for _ in range(2):
        with pytest.raises(jinja2.TemplateError) as caught:
            page(client, "page.html", t=TABLE)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(message)


def test_a_template_given_as_text_is_called_string(client: Client) -> None:
    with pytest.raises(jinja2.UndefinedError, match=r"^string:2: 'nope' is undefined$"):
        text(client, "\n{{ nope }}")
    with pytest.raises(jinja2.TemplateSyntaxError, match=r"^string:1: "):
        text(client, "{{")


def test_values_that_are_no_text_are_refused_by_their_place(client: Client) -> None:
    for value, place in (
        (b"\xff", "values.a"),
        ([1, b"\xff"], r"values.a\[2\]"),
        ({"b": [{"c": b"\xff"}]}, r"values.a.b\[1\].c"),
    ):
        with pytest.raises(ValueError, match=f"^{place} is not valid UTF-8$"):
            text(client, "x", a=value)
    with pytest.raises(ValueError, match=r"^the template is not valid UTF-8$"):
        client.render_string(b"\xff", {})
    with pytest.raises(
        ValueError, match=r"^the template has 65537 characters; at most 65536 are taken, more from a file$"
    ):
        text(client, "x" * 65537)


def test_without_its_library_the_client_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'greenlua\[template\]'$"):
        Clients(Settings(), tmp_path).open("template")


# ------------------------------------------------------------ the way out

ESCAPES: list[tuple[str, type[Exception]]] = [
    ("{{ ''.__class__.__mro__ }}", SecurityError),
    ("{{ ''['__class__'] }}", SecurityError),
    ("{{ [].__class__.__base__.__subclasses__() }}", SecurityError),
    ("{{ {}.__class__ }}", SecurityError),
    ("{{ t.__class__ }}", SecurityError),
    ("{{ t['__class__'] }}", SecurityError),
    ("{{ (1).__class__ }}", SecurityError),
    ("{{ (1).real }}", SecurityError),
    ("{{ none.__class__ }}", SecurityError),
    ("{{ true.__doc__ }}", SecurityError),
    ("{{ cycler.__init__.__globals__ }}", SecurityError),
    ("{{ joiner.__init__.__globals__.os }}", SecurityError),
    ("{{ namespace.__init__ }}", SecurityError),
    ("{{ dict.__bases__ }}", SecurityError),
    ("{{ dict.mro() }}", SecurityError),
    ("{{ range.__globals__ }}", SecurityError),
    ("{{ range(1).__class__ }}", SecurityError),
    ("{{ self.__init__.__globals__ }}", SecurityError),
    ("{{ self._TemplateReference__context.environment }}", SecurityError),
    ("{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}", SecurityError),
    ("{% for x in [1] %}{{ loop._iterable }}{% endfor %}", SecurityError),
    ("{% macro m() %}{% endmacro %}{{ m.__init__ }}", SecurityError),
    ("{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}", SecurityError),
    ("{% macro m() %}{{ caller._func.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}", SecurityError),
    ("{{ ''.upper.__self__ }}", SecurityError),
    ("{{ ''.upper.__class__ }}", SecurityError),
    ("{{ '{0.__class__}'.format('') }}", SecurityError),
    ("{{ '{0.__class__}'.format_map({}) }}", SecurityError),
    ("{{ ('{0.__class__}'|safe).format('') }}", SecurityError),
    ("{{ 'x'['for' ~ 'mat'] }}", SecurityError),
    ("{{ ''.join.__self__ }}", SecurityError),
    ("{{ 'x'.encode() }}", SecurityError),
    ("{{ 'x'.translate({}) }}", SecurityError),
    ("{{ ('x'|safe).__html__ }}", SecurityError),
    ("{{ ['x']|map(attribute='__class__')|first }}", SecurityError),
    ("{{ ['x']|map(attribute='upper.__self__')|first }}", SecurityError),
    ("{{ ([{}]|groupby('__class__')|first).grouper }}", SecurityError),
    ("{{ ['x', 'y']|sort(attribute='__class__')|join }}", SecurityError),
    ("{{ ['x']|selectattr('__class__')|join }}", SecurityError),
    ("{{ ['x']|join(attribute='__class__') }}", SecurityError),
    ("{{ ['x']|sum(attribute='__class__') }}", SecurityError),
    ("{{ [1].append(2) }}", SecurityError),
    ("{{ t.update({}) }}", jinja2.UndefinedError),
    ("{{ {}.setdefault }}", jinja2.UndefinedError),
    ("{{ ''|attr('__class__') }}", jinja2.TemplateSyntaxError),
    ("{{ ['']|map('attr', '__class__')|first }}", jinja2.TemplateRuntimeError),
    ("{{ config }}{{ request }}{{ environment }}{{ context }}", jinja2.UndefinedError),
    ("{{ lipsum.__globals__ }}", jinja2.UndefinedError),
    ("{{ get_flashed_messages.__globals__ }}", jinja2.UndefinedError),
    ("{{ 5|begin part }}", jinja2.TemplateSyntaxError),
    ("{% import 'os' as os %}", jinja2.TemplateNotFound),
    ("{{ (x for x in []) }}", jinja2.TemplateSyntaxError),
    ("{{ lambda: 1 }}", jinja2.TemplateSyntaxError),
]


@pytest.mark.parametrize(("source", "kind"), ESCAPES, ids=[source for source, _ in ESCAPES])
def test_there_is_no_way_out(client: Client, source: str, kind: type[Exception]) -> None:
    with pytest.raises(jinja2.TemplateError) as caught:
        text(client, source, t={"a": 1})
    assert type(caught.value) is kind


def test_no_method_of_text_formats_or_fills() -> None:
    growing = {
        "center",
        "encode",
        "expandtabs",
        "format",
        "format_map",
        "join",
        "ljust",
        "replace",
        "rjust",
        "translate",
        "zfill",
    }
    assert set(TEXT_METHODS) <= set(dir(str)) - growing
    assert {name for name in dir(str) if not name.startswith("_")} - growing - set(TEXT_METHODS) == {
        "isidentifier",
        "isprintable",
        "maketrans",
    }


def test_values_are_not_changed_by_a_template(client: Client) -> None:
    values = {"t": {"list": [3, 1]}}
    text(client, "{% set t2 = t %}{{ t.list|sort|join }}{{ t.list|reverse|join }}{% set x = t.list + [9] %}", **values)
    assert values == {"t": {"list": [3, 1]}}


# ------------------------------------------------------------ what a render may use

BIG = "{% set b = 'x' * 10 ** 7 %}"
DOUBLING = "{% set n = namespace(x=START) %}{% for i in range(100) %}{% set n.x = STEP %}{% endfor %}"
Y = "y" * 5000
HUNGRY: dict[str, str] = {
    "a range": "{% for x in range(10 ** 9) %}{% endfor %}",
    "text times": "{{ 'x' * 10 ** 9 }}",
    "times text": "{{ 10 ** 9 * 'x' }}",
    "list times": "{{ ([1] * 10 ** 9)|length }}",
    "a power": "{{ 2 ** (10 ** 9) }}",
    "a tower": "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "a long literal": "{{ 0x" + "f" * 2000 + " % 7 }}",
    "adding texts": DOUBLING.replace("START", "'x'").replace("STEP", "n.x + n.x"),
    "joining texts": DOUBLING.replace("START", "'x'").replace("STEP", "n.x ~ n.x"),
    "adding lists": DOUBLING.replace("START", "[1]").replace("STEP", "n.x + n.x"),
    "adding tuples": DOUBLING.replace("START", "(1, 2)").replace("STEP", "n.x + n.x"),
    "replacing": DOUBLING.replace("START", "'x'").replace("STEP", "n.x|replace('x', 'xx')"),
    "a list in itself, as JSON": DOUBLING.replace("START", "[1]").replace("STEP", "[n.x, n.x]") + "{{ n.x|tojson }}",
    "a table in itself, as JSON": DOUBLING.replace("START", "1").replace("STEP", "{'a': n.x, 'b': n.x}") + "{{ n.x|tojson }}",
    "text kept": BIG + "{% set n = namespace(x=[]) %}{% for i in range(100) %}{% set n.x = n.x + [b ~ i] %}{% endfor %}",
    "slices kept": BIG + "{% set n = namespace(x=[]) %}{% for i in range(100) %}{% set n.x = n.x + [b[i:]] %}{% endfor %}",
    "methods kept": BIG + "{% set n = namespace(x=[]) %}{% for i in range(100) %}{% set n.x = n.x + [b.upper()] %}{% endfor %}",
    "filters kept": BIG + "{% set n = namespace(x=[]) %}{% for i in range(100) %}{% set n.x = n.x + [b|upper] %}{% endfor %}",
    "tables kept": "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = n.x + [dict(t)] %}{% endfor %}",
    "a page": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "a page of its own text": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "a page of what is escaped": "{{ '<' * 4 * 10 ** 6 }}",
    "a block of text": BIG + "{% set x %}{% for i in range(99999) %}{{ b }}{% endfor %}{% endset %}",
    "a block of its own text": "{% set x %}{% for i in range(99999) %}" + Y + "{% endfor %}{% endset %}",
    "a block of a constant": "{% set x %}{% for i in range(99999) %}{{ '" + Y + "' }}{% endfor %}{% endset %}",
    "a branch of its own text": "{% set x %}{% for i in range(99999) %}{% if i %}" + Y + "{% endif %}{% endfor %}{% endset %}",
    "a macro's text": "{% macro m() %}" + Y + "{% endmacro %}{% set x %}{% for i in range(9999) %}{{ m() }}{% endfor %}"
    "{% endset %}",
    "a filtered block": BIG + "{% filter upper %}{% for i in range(99999) %}{{ b }}{% endfor %}{% endfilter %}",
    "nothing, for long": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros, for long": "{% macro m(n) %}{% if n %}{% set x = m(n - 1) ~ m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
    "a macro in itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a loop in itself": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "brackets": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "signs": "{{ " + "-" * 9000 + "1 }}",
    "loops in loops": "{% for x in [1] %}" * 2000 + "{% endfor %}" * 2000,
    "center": "{{ 'x'|center(10 ** 9) }}",
    "indent": "{{ 'x'|indent(10 ** 9, true) }}",
    "indent by text": BIG + "{{ ('\\n' * 1000)|indent(b, true, true) }}",
    "wordwrap": "{{ ('x ' * 10 ** 6)|wordwrap(1) }}",
    "wordwrap by text": BIG + "{{ 'a b c d e f g h i j'|wordwrap(1, true, b) }}",
    "batch": "{{ [1]|batch(10 ** 9, 'x')|list|length }}",
    "slice": "{{ [1]|slice(10 ** 9)|list|length }}",
    "join": BIG + "{{ range(99999)|join(b) }}",
    "join items": BIG + "{{ ([b] * 1000)|join }}",
    "replace": BIG + "{{ ('a' * 1000)|replace('a', b) }}",
    "replace nothing": BIG + "{{ 'aaaaaaaaaa'|replace('', b) }}",
    "format": BIG + "{{ ('%(b)s' * 1000)|format(b=b) }}",
    "percent": BIG + "{{ ('%(b)s' * 1000) % {'b': b} }}",
    "percent by width": "{{ (('%9999s' * 10 ** 4) % (('',) * 10 ** 4))|length }}",
    "tojson": "{{ ([[1] * 10 ** 5] * 1000)|tojson }}",
    "tojson's indent": "{{ [1]|tojson(10 ** 9) }}",
    "list": BIG + "{{ b|list|length }}",
    "round": "{{ 1.5|round(10 ** 9) }}",
    "int": "{{ ('f' * 10 ** 6)|int(0, 16) + 1 }}",
    "split": BIG + "{{ b.split('x')|length }}",
    "splitlines": "{{ ('\\n' * 5 * 10 ** 6).splitlines()|length }}",
    "striptags": "{{ ('<a>' * 10 ** 6)|striptags }}",
    "title": BIG + "{{ b|title }}",
    "wordcount": BIG + "{{ b|wordcount }}",
    "urlencode": BIG + "{{ ('<' * 9 * 10 ** 6)|urlencode|urlencode }}",
    "xmlattr": BIG + "{{ {'a': b, 'b': b}|xmlattr }}",
}  # fmt: skip

EATER = """
import json, re, sys
from pathlib import Path
from greenlua.clients import Clients
from greenlua.clients.template import Client
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings

client = Client(Settings(), Path(sys.argv[1]).resolve())
for name, source in json.load(sys.stdin).items():
    try:
        told = f"a page of {len(client.render_string(source, {'t': {str(i): i for i in range(10000)}}))} bytes"
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    # Not ru_maxrss: that begins with what the process that forked this one held.
    peak = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
    print(json.dumps([name, told[:300], peak // 1024]), flush=True)
"""


@pytest.fixture(scope="module")
def eaten(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What became of each of ``HUNGRY``, and how many MiB its process had then had at most; all in one process, in order."""
    folder = tmp_path_factory.mktemp("eater")
    done = subprocess.run(
        [sys.executable, "-c", EATER, str(folder)],
        input=json.dumps(HUNGRY),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return {name: (told, peak) for name, told, peak in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", HUNGRY)
def test_a_hungry_template_is_stopped(eaten: dict[str, tuple[str, int]], name: str) -> None:
    told, peak = eaten[name]
    assert told.startswith("TemplateLimitError: string:"), told
    assert peak < 400


def test_a_page_may_be_as_large_as_allowed(client: Client) -> None:
    line = "x" * 1023 + "\n"
    source = "{% macro m(i) %}" + line + "{% endmacro %}{% for i in range(10239) %}{{ m(i) }}{% endfor %}"
    assert len(text(client, source)) == 10239 * 1024 < OUTPUT_MAX
    with pytest.raises(TemplateLimitError, match=r"^string: the page is larger than 10 MiB$"):
        text(client, source.replace("10239", "10241"))
    with pytest.raises(TemplateLimitError, match=r"larger than 10 MiB$"):
        text(client, "{{ x }}", x="ö" * (OUTPUT_MAX // 2 + 1))


def test_each_render_has_a_budget_of_its_own(client: Client) -> None:
    for _ in range(20):
        assert len(text(client, "{{ 'x' * 9 * 10 ** 6 }}")) == 9_000_000


LONG = "{% for a in range(900) %}{% for b in range(1000) %}{% endfor %}{% endfor %}done"


def test_renders_take_turns(client: Client) -> None:
    """A long render lets others run, which have budgets of their own."""
    long = gevent.spawn(client.render_string, LONG, {})
    others = 0
    while not long.ready():
        assert text(client, "{% for i in range(10) %}{{ i }}{% endfor %}") == "0123456789"
        others += 1
        gevent.sleep(0)
    assert long.get() == b"done"
    assert others > 3


def test_a_cancelled_render_ends_at_once(client: Client) -> None:
    long = gevent.spawn(client.render_string, LONG, {})
    gevent.sleep(0)  # until it first gives way
    assert long.started
    assert not long.ready()
    began = time.monotonic()
    long.kill(timeout=5)
    assert isinstance(long.value, GreenletExit)
    assert time.monotonic() - began < 1
    assert text(client, "{{ 1 }}") == "1"


# ------------------------------------------------------------ what Lua sees

FILES = {
    "templates/page.html": "{% extends 'templates/base.html' %}"
    "{% block body %}{% for i in items %}<li>{{ i.name }}{% endfor %}{% endblock %}",
    "templates/base.html": "<h1>{{ title }}</h1>{% block body %}{% endblock %}",
    "templates/broken.html": "a\n{{ title }} {{ titel }}",
    "mail.txt": "Dear {{ name }}",
}


@pytest.fixture(scope="module", params=list(MODULES))
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "templates").mkdir()
    for name, source in FILES.items():
        (folder / name).write_text(source)
    with running_lua(folder, 'template = require "greenlua.template"', lua=request.param) as running:
        yield running


PROMISES: list[tuple[str, list[Any]]] = [
    (
        "return template.render('templates/page.html', { title = '<T>', items = { { name = 'a' }, { name = '&' } } })",
        ["<h1>&lt;T&gt;</h1><li>a<li>&amp;"],
    ),
    ("return template.render('templates/page.html', { title = 'T', items = {} })", ["<h1>T</h1>"]),
    ("return template.render('templates/page.html', { title = 'T', items = json.array {} })", ["<h1>T</h1>"]),
    ("return template.render('mail.txt', { name = '<Ada>' })", ["Dear <Ada>"]),
    ("return template.render_string('plain')", ["plain"]),
    ("return template.render_string('plain', {})", ["plain"]),
    ("return template.render_string('{{ n is none }} {{ l|length }}', { n = json.null, l = { 1, 2 } })", ["true 2"]),
    ("return template.render_string('{{ a }} {{ b }} {{ c }}', { a = 1, b = 1.5, c = true })", ["1 1.5 true"]),
    ("return template.render_string('{{ a }} {{ e|length }}', { a = '\\195\\182', e = {} })", ["ö 0"]),
    ("return template.render_string('{{ a.items[0] }}{{ a.items[1] }}', { a = { items = { 'x', 'y' } } })", ["xy"]),
    ("return #template.render_string('{{ x * 5000000 }}', { x = 'x' })", [5_000_000]),
    ("return pcall(function() template.render = nil end)", [False, "test.lua:1: greenlua.template cannot be changed"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), PROMISES, ids=[source[:60] for source, _ in PROMISES])
def test_lua_gets(process: LuaProcess, source: str, expected: list[Any]) -> None:
    assert process.run(source) == expected


FAILURES: list[tuple[str, str | None, str]] = [
    ("template.render()", None, "template.render: the name must be a string, not a nil"),
    ("template.render_string({})", None, "template.render_string: the template must be a string, not a table"),
    ("template.render('mail.txt', 'Ada')", None, "template.render: the values must be a table, not a string"),
    ("template.render('mail.txt', json.null)", None, "template.render: the values must be a table, not json.null"),
    ("template.render('mail.txt', { 'Ada' })", None, "template.render: the values must be a table of names, not a list"),
    ("template.render('nope.html')", "TemplateNotFound", "TemplateNotFound: there is no template 'nope.html' in the app's folder"),
    ("template.render('../app.lua')", "TemplateNotFound", "TemplateNotFound: '../app.lua' cannot be a template: no part"),
    ("template.render('mail.txt', {})", "UndefinedError", "UndefinedError: mail.txt:1: 'name' is undefined"),
    (
        "template.render('templates/broken.html', { title = 'T' })",
        "UndefinedError",
        "UndefinedError: templates/broken.html:2: 'titel' is undefined",
    ),
    ("template.render_string('{{')", "TemplateSyntaxError", "TemplateSyntaxError: string:1: unexpected 'end of template'"),
    ("template.render_string('{{ 0 .real }}')", "SecurityError", "SecurityError: string:1: access to attribute 'real'"),
    ("template.render_string('{{ 1/0 }}')", "TemplateRuntimeError", "TemplateRuntimeError: string:1: ZeroDivisionError: "),
    ("template.render_string('{{ \"x\" * 10**9 }}')", "TemplateLimitError", "TemplateLimitError: string:1: the template builds"),
    ("template.render_string('', { a = '\\255' })", "ValueError", "ValueError: values.a is not valid UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), FAILURES, ids=[call for call, *_ in FAILURES])
def test_failures_stand_at_the_place_of_the_call(
    process: LuaProcess, call: str, kind: str | None, message: str
) -> None:
    outcome = process.outcome(f"\nlocal x = {call}\nreturn x")
    assert outcome.type == kind
    assert outcome.text.startswith(f"test.lua:2: {message}")


def test_other_requests_are_answered_while_a_page_is_rendered(process: LuaProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        rendering = pool.submit(process.run, f'return template.render_string("{LONG}")')
        answered = 0
        while not rendering.done():
            assert process.run("return 1") == [1]
            answered += 1
        assert rendering.result() == ["done"]
    assert answered > 3


def test_a_render_ends_with_its_request(tmp_path: Path) -> None:
    """After the time of the request the process computes no more."""
    endless = LONG.replace("900", "99999")
    with running_lua(tmp_path, 'template = require "greenlua.template"', request_timeout=0.2) as running:

        def used() -> float:
            fields = Path(f"/proc/{running.server.process.pid}/stat").read_text().rpartition(")")[2].split()
            return float(fields[11]) + float(fields[12])

        status, _ = running.ask(f'return template.render_string("{endless}")')
        assert status == 504

        def idle() -> bool:
            before = used()
            time.sleep(0.3)  # a measurement, no waiting: 30 ticks of a core
            return used() - before <= 5

        wait_until(idle, "a process that rests", 3)
