"""The Python half of greenlua.redis: commands, pipelines and subscriptions, on connections of redis-py.

A command is sent once and never again by itself: whether it was done when a connection broke, nobody knows. Only a connection that
the server closed while it was idle is replaced silently, before anything is sent. Answers come as Redis gave them (RESP2).
An error is a ResponseError, ConnectionError, TimeoutError, CommandRefused or SubscriptionClosed. Uses settings, errors.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from greenlua.errors import ConfigurationError
from greenlua.settings import Settings

SUBSCRIPTIONS_MAX = 1000  # at once in one process; each is a connection of its own
BLOCKING_MAX = 86400.0  # seconds that a blocking command may wait

# What would change the connection for those who borrow it next, or leave it with answers that nobody reads.
REFUSED = {
    "SUBSCRIBE": "use redis.subscribe",
    "PSUBSCRIBE": "use redis.subscribe(pattern, { pattern = true })",
    "SSUBSCRIBE": "use redis.subscribe",
    "UNSUBSCRIBE": "use subscription:close()",
    "PUNSUBSCRIBE": "use subscription:close()",
    "SUNSUBSCRIBE": "use subscription:close()",
    "MULTI": "use redis.pipeline(fn, { transaction = true })",
    "EXEC": "use redis.pipeline(fn, { transaction = true })",
    "DISCARD": "use redis.pipeline(fn, { transaction = true })",
    "WATCH": "use a script: redis.eval",
    "UNWATCH": "use a script: redis.eval",
    "SELECT": "name the database in the setting redis_url",
    "AUTH": "put user and password into the setting redis_url",
    "HELLO": "put user and password into the setting redis_url",
    **dict.fromkeys(("MONITOR", "QUIT", "RESET", "SYNC", "PSYNC", "REPLCONF"), "connections are shared"),
    **dict.fromkeys(("ASKING", "READONLY", "READWRITE", "HIMPORT"), "connections are shared"),
}
REFUSED_SECOND = {
    "CLIENT": {"CACHING", "NO-EVICT", "NO-TOUCH", "REPLY", "SETINFO", "SETNAME", "TRACKING"},
    "SCRIPT": {"DEBUG"},
}

# Where a blocking command says how long it waits, and how many of it are a second.
_TIMEOUT_AT = {
    **dict.fromkeys(("BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX", "BRPOPLPUSH", "BLMOVE"), (-1, 1)),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), (1, 1)),
    **dict.fromkeys(("WAIT", "WAITAOF"), (-1, 1000)),
}


class CommandRefused(Exception):
    """A command that cannot be sent over a shared connection."""


class SubscriptionClosed(Exception):
    """The subscription was closed."""


@functools.cache
def library() -> Any:
    """redis-py; imported when the first client is made."""
    import redis

    return redis


def make_pool(url: str, name: str, settings: Settings) -> Any:
    """A bounded pool of connections. Connects to nobody yet.

    Args:
        url, name: the server, and the setting that says so.

    Raises:
        ConfigurationError: the URL is none.
    """
    redis = library()
    try:
        options = redis.connection.parse_url(url)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    timeout = settings.redis_timeout
    options.update(
        max_connections=settings.redis_pool,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        protocol=2,
        decode_responses=False,
    )
    try:
        pool = redis.BlockingConnectionPool(**options)
        pool.connection_class(
            **pool.connection_kwargs
        )  # no I/O: only that an option of the URL that there is not is noticed now
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: {error}") from None
    return pool


def named(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with each error of redis-py as one of three types, whatever its subclass."""

    @functools.wraps(function)
    def perform(*arguments: Any) -> Any:
        redis = library()
        try:
            return function(*arguments)
        except redis.ResponseError as error:
            raise redis.ResponseError(sentence(error)) from None
        except redis.TimeoutError as error:
            raise redis.TimeoutError(str(error)) from None
        except redis.RedisError as error:
            text = str(error)
            if text == "No connection available.":
                text = "no connection was free in time (settings redis_pool and redis_timeout)"
            raise redis.ConnectionError(text) from None

    return perform


def sentence(error: Exception) -> str:
    """What Redis said, with the code that redis-py takes off (OOM, NOSCRIPT...), without the ERR that says nothing."""
    code, text = getattr(error, "status_code", None), str(error).removeprefix("ERR ")
    return text if code in (None, "ERR") or text.startswith(code) else f"{code} {text}"


def word(value: Any) -> bytes:
    """An argument as Redis takes it: a number as decimal text, an integral one without a point."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float) and not (value.is_integer() and abs(value) < 2**63):
        return repr(value).encode()
    return b"%d" % int(value)


def wait_of(words: Sequence[bytes]) -> float | None:
    """How many seconds a blocking command may wait in Redis; None for others, and for those that Redis will find wrong.

    Raises:
        CommandRefused: it would wait for ever, or longer than a day.
    """
    name = words[0].decode("ascii").upper()
    at, scale = _TIMEOUT_AT.get(name, (0, 1))
    if name in ("XREAD", "XREADGROUP"):
        options = [option.upper() for option in words]
        at = options.index(b"BLOCK") + 1 if b"BLOCK" in options else 0
        scale = 1000
        if b"STREAMS" in options[:at]:
            at = 0  # a stream that is called block
    try:
        seconds = float(words[at]) / scale if at else None
    except (ValueError, IndexError):
        return None
    if seconds is not None and not 0 < seconds <= BLOCKING_MAX:
        if seconds < 0:
            return None
        raise CommandRefused(
            f"{name} would hold its connection too long: say how long it waits, above 0 and up to a day, and call it again"
        )
    return seconds


def check(words: Sequence[bytes]) -> None:
    """Raises:
    CommandRefused: the command would spoil a shared connection.
    """
    name = words[0].decode("ascii").upper()
    if name in REFUSED:
        raise CommandRefused(f"{name} cannot be sent by redis.call: {REFUSED[name]}")
    second = words[1].decode(errors="replace").upper() if len(words) > 1 else ""
    if second in REFUSED_SECOND.get(name, ()):
        raise CommandRefused(f"{name} {second} cannot be sent by redis.call: connections are shared")


def reply(connection: Any) -> Any:
    """The next answer; an error that is the answer as a value, so that those behind it are read too."""
    try:
        return connection.read_response()
    except library().ResponseError as error:
        return error


def raise_inside(value: Any, what: str = "") -> Any:
    """Gives value back, unless it is an error or has one inside (an EXEC, a script's list)."""
    if isinstance(value, library().ResponseError):
        raise library().ResponseError(what + sentence(value))
    if isinstance(value, list):
        for item in value:
            raise_inside(item, what)
    return value


class Subscription:
    """A connection that listens, and whether someone is waiting on it."""

    __slots__ = ("busy", "connection")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.busy = False


class Client:
    """See greenlua.clients.Client."""

    EXTRA: ClassVar[str] = "redis"

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._pool = make_pool(settings.redis_url, "redis_url", settings)
        self._timeout = settings.redis_timeout
        self._subscriptions: dict[int, Subscription] = {}
        self._opening = 0
        numbers = itertools.count(1)
        self.operations: dict[str, Callable[..., Any]] = {
            "call": named(self.call),
            "pipeline": named(self.pipeline),
            "subscribe": named(self.subscribe),
            "receive": named(self.receive),
            "unsubscribe": self.unsubscribe,
        }
        # A subscription's number is known before it is opened, so that whoever is cancelled meanwhile can name what to close.
        self.callables: dict[str, Callable[..., Any]] = {"number": lambda: next(numbers)}

    def close(self) -> None:
        for number in list(self._subscriptions):
            self.unsubscribe(number)
        self._pool.disconnect()

    # ------------------------------------------------------------ commands

    def call(self, values: Sequence[Any]) -> Any:
        """Performs one command. ``values``: its name, without spaces, and its arguments: str, bytes, numbers."""
        words = [word(value) for value in values]
        check(words)
        seconds = wait_of(words)

        def talk(connection: Any) -> Any:
            connection.send_command(*words)
            if seconds is not None and not connection.can_read(seconds + self._timeout):
                raise library().TimeoutError(
                    f"{words[0].decode()} had no answer {self._timeout:g} seconds after its own timeout"
                )
            return reply(connection)

        return raise_inside(self._borrow(talk))

    def pipeline(self, commands: Sequence[Sequence[Any]], transaction: bool) -> list[Any]:
        """Sends all commands at once and gives their answers; in a transaction, Redis does nothing else between them.

        Raises:
            ResponseError: a command failed; names the first. Without a transaction the others were done, and within one too, unless
                Redis refused one before it began.
        """
        packed = [[word(value) for value in values] for values in commands]
        for words in packed:
            check(words)
            if wait_of(words) is not None:
                raise CommandRefused(f"{words[0].decode()} waits, and would hold up the pipeline: call it by itself")
        sent = [[b"MULTI"], *packed, [b"EXEC"]] if transaction else packed

        def talk(connection: Any) -> list[Any]:
            connection.send_packed_command(connection.pack_commands(sent))
            return [reply(connection) for _ in sent]

        answers = self._borrow(talk)
        if transaction:
            done = answers.pop()
            # Redis refuses the whole transaction for one command that it cannot read, and says which on the way.
            answers = done if isinstance(done, list) else [*answers[1:], done]
        for number, (answer, words) in enumerate(zip(answers, [*packed, [b"EXEC"]], strict=False), 1):
            raise_inside(answer, f"command {number} of the pipeline ({words[0].decode()}): ")
        return list(answers)

    def _borrow(self, talk: Callable[[Any], Any]) -> Any:
        connection = self._pool.get_connection()
        try:
            return talk(connection)
        except BaseException:
            connection.disconnect()  # an answer may still be on its way, and nobody else must read it
            raise
        finally:
            self._pool.release(connection)

    # ------------------------------------------------------------ subscriptions

    def subscribe(self, number: int, channels: Sequence[Any], pattern: bool) -> None:
        """Opens the subscription with that number; published messages are kept by Redis and the socket from now on."""
        if len(self._subscriptions) + self._opening >= SUBSCRIPTIONS_MAX:
            raise library().ConnectionError(f"there are {SUBSCRIPTIONS_MAX} subscriptions already; close some")
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        self._opening += 1
        try:
            connection.connect()
            connection.send_command(
                b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", *[word(channel) for channel in channels]
            )
            for _ in channels:  # Redis confirms each, and sends no message in between
                connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._opening -= 1
        self._subscriptions[number] = Subscription(connection)

    def receive(self, number: int, timeout: float | None) -> list[bytes] | None:
        """The next message and its channel; None when none came within ``timeout`` seconds. None waits without end.

        Cancelled, it loses nothing: what was read in part is read again.
        """
        subscription = self._subscriptions.get(number)
        if subscription is None:
            raise SubscriptionClosed("the subscription is closed")
        if subscription.busy:
            raise CommandRefused("another task is waiting for a message of this subscription; open one for each")
        subscription.busy = True
        try:
            if not subscription.connection.can_read(timeout):
                return None
            message = subscription.connection.read_response(disconnect_on_error=False)
        except Exception as error:
            if not self.unsubscribe(number):
                raise SubscriptionClosed("the subscription was closed") from None
            raise library().ConnectionError(f"the subscription is lost, and messages may be: {error}") from None
        finally:
            subscription.busy = False
        return [message[-1], message[-2]]

    def unsubscribe(self, number: int) -> bool:
        """Closes a subscription; whether it was open."""
        subscription = self._subscriptions.pop(number, None)
        if subscription is None:
            return False
        subscription.connection.disconnect()
        return True
