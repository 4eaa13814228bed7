"""What the log says of requests and background work. Uses messages."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from greenlua.messages import Call, Job, Resume, Work

log = logging.getLogger("greenlua")

TRACEBACK_MAX = 65536  # characters; an exception may hold what a client has sent

# A path may hold %0A: written as it is, it would be a log line of the client's own.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def subject(message: Any) -> str:
    """The request or the work that a message of the channel is about."""
    owner: Any = None
    if isinstance(message, Call):
        owner = message.slot
    elif isinstance(message, Resume):
        owner = message.operation.owner
    elif isinstance(message, Work):
        owner = message.job
    if isinstance(owner, Job):
        return f"the background work {owner.name}"
    environ = owner.call.environ if owner is not None and owner.call is not None else {}
    path = environ.get("PATH_INFO", "-").translate(_CONTROLS)
    return f"{environ.get('REQUEST_METHOD', '-')} {path} [{environ.get('greenlua.request_id', '-')}]"


def log_exception(what: str) -> None:
    """Logs the exception that is being handled, with its traceback; a long one is cut."""
    text = traceback.format_exc()
    if len(text) <= TRACEBACK_MAX:
        log.exception("%s", what)
    else:
        log.error("%s\n%s... (%d characters)", what, text[:TRACEBACK_MAX], len(text))


def log_failure(environ: dict[str, Any], message: str, trace: str) -> None:
    """Logs what failed in a handler, with the request it failed for."""
    log.error(
        "%s %s [%s]: %s%s",
        environ.get("REQUEST_METHOD", "-"),
        environ.get("PATH_INFO", "-").translate(_CONTROLS),
        environ.get("greenlua.request_id", "-"),
        message,
        "\n" + trace if trace else "",
    )
