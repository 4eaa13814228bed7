"""The error tree, split by blame: configuration, client, overload, server, bug. Each error knows its HTTP status.

``str(error)`` is a sentence for whoever reads it. Uses nothing of greenlua.
"""

from collections.abc import Sequence
from http import HTTPStatus

REASONS: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}
# HTTPStatus still has the names of RFC 7231 for these on older Pythons; RFC 9110 renamed them.
REASONS[413] = "Content Too Large"
REASONS[414] = "URI Too Long"
REASONS[416] = "Range Not Satisfiable"
REASONS[422] = "Unprocessable Content"
# As nginx has it: for the access log. HTTP has no status for an answer that nobody reads.
REASONS[499] = "Client Closed Request"


class GreenluaError(Exception):
    """Base of all errors of this package. ``str(error)`` is a sentence for whoever reads it."""

    status = 500


class ConfigurationError(GreenluaError):
    """The app or its settings are wrong; nothing can start. The sentence names the file and line, or the setting."""


class ClientError(GreenluaError):
    """The client sent something wrong.

    Args:
        status: the HTTP status: 400 to 499, or 501.
        detail: what was wrong, in a sentence that may be sent to the client.
        errors: single faults, each with a ``pointer`` (JSON Pointer, RFC 6901) and a ``message``.
        headers: what the answer says beside it.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: list[dict[str, str]] | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = errors
        self.headers = headers


class OverloadError(GreenluaError):
    """No place for this request in time. ``retry_after`` is what the client is told to wait, in whole seconds."""

    status = 503

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class ServerError(GreenluaError):
    """The server that called us cannot run greenlua (it is threaded). The sentence says which ones can."""


class Bug(GreenluaError):
    """A promise inside greenlua was broken; please report it."""


class OutOfMemoryError(GreenluaError):
    """What an app keeps leaves no room in its Lua VM for any request."""
