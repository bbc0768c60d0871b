"""Every exception of the server, and what becomes of it at the edge.

An `ApiError` carries its HTTP status; `rpc_code` gives the JSON-RPC code for it: the status, except that 404 becomes
"method not found" (-32601) and 401 "invalid params" (-32602), which is what front ends match on.
The text of an error is shown to users: it names the thing and what to do about it, never a path of the machine, an
errno or a traceback.
"""

from __future__ import annotations

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

_RPC_CODES = {404: METHOD_NOT_FOUND, 401: INVALID_PARAMS}


class MoonfastError(Exception):
    """Base of all errors that the server raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class FramingError(ValueError):
    """A byte stream does not keep to its framing. `completed` holds the messages that ended before the fault."""

    def __init__(self, message: str, completed: list[bytes] | None = None) -> None:
        super().__init__(message)
        self.completed = completed or []


class SpanError(ValueError):
    """A text is not the JSON it should be; the message ends with the byte offset."""


class ConfigError(MoonfastError):
    """A configuration that cannot be used: where the fault is and how to mend it."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        section: str | None = None,
        option: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.file, self.line, self.section, self.option, self.remedy = file, line, section, option, remedy

    def __str__(self) -> str:
        where = ""
        if self.file is not None:
            where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        if self.section is not None:
            where += f"[{self.section}] " + (f"{self.option}: " if self.option else "")
        return where + self.message + (f" {self.remedy}" if self.remedy else "")


class TemplateFailed(MoonfastError):
    """A template of the configuration cannot be rendered; the text names section, option and line."""


class StartError(MoonfastError):
    """The server cannot start: port taken, data folder not writable, second instance. One line, exit status 1."""


class ApiError(MoonfastError):
    """A request that is answered by an error. `data` goes into `error.data` of the answer."""

    status = 500

    def __init__(self, message: str, *, data: object = None) -> None:
        super().__init__(message)
        self.data = data

    @property
    def rpc_code(self) -> int:
        return _RPC_CODES.get(self.status, self.status)


class BadRequest(ApiError):
    status = 400


class Unauthorized(ApiError):
    """Refused for want of rights. Clients know the message; `remedy` says in a sentence what is missing, `reason` in a
    word for programs.
    """

    status = 401

    def __init__(self, remedy: str, reason: str = "login_required") -> None:
        super().__init__("Unauthorized", data={"reason": reason, "remedy": remedy})
        self.remedy, self.reason = remedy, reason


class Forbidden(ApiError):
    status = 403


class NotFound(ApiError):
    status = 404


class MethodNotAllowed(ApiError):
    """The path exists, the verb does not; `allowed` goes into the Allow header (RFC 9110 section 15.5.6)."""

    status = 405

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("Method Not Allowed")
        self.allowed = allowed


class Conflict(ApiError):
    """What is asked for cannot be done in the present state."""

    status = 409


class PayloadTooLarge(ApiError):
    status = 413


class UriTooLong(ApiError):
    status = 414


class UnprocessableContent(ApiError):
    status = 422


class AgentFailed(ApiError):
    """A connected agent answered a request that was passed on to it with an error."""

    status = 424


class HeadersTooLarge(ApiError):
    status = 431


class InternalError(ApiError):
    status = 500


class Unavailable(ApiError):
    status = 503


class GatewayTimeout(ApiError):
    status = 504


class InsufficientStorage(ApiError):
    status = 507


class KlippyError(BadRequest):
    """Klippy refused a request; the text is Klippy's and is passed on as it is."""


class KlippyDisconnected(Unavailable):
    """Klippy went away, or was never there, when a request needed it."""

    def __init__(self, message: str = "Klippy Host not connected") -> None:
        super().__init__(message)
