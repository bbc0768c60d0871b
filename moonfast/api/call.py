"""Who asks, and over which way."""

from __future__ import annotations

from typing import Protocol

from moonfast.errors import Unauthorized
from moonfast.vocab import Transport, Verb


class Peer(Protocol):
    """A lasting connection as handlers see it; `transports.connection.Connection` is one."""

    uid: int


class HttpAnswer:
    """What a handler returns when its answer over HTTP is not JSON with status 200."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        content_type: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.body, self.status, self.content_type, self.headers = body, status, content_type, headers


class FileAnswer:
    """A handler's answer that is a file: the transport sends it, with ranges and conditions (RFC 9110 section 13, 14).

    `name` is what a browser saves it as. `path` must be a regular file; if it is not there the answer is 404.
    """

    __slots__ = ("name", "path")

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name


class Call:
    """One request, or, on a lasting connection, all of them: only what the caller may changes from one to the next.

    `connection` is None over plain HTTP. `address` is the client's IP address, None on the Unix socket.
    `verb` is that of an HTTP request; over JSON-RPC it is that of the endpoint called. `user` is the name of the
    account that the caller has logged in to, `proof` what was shown for it, or an API key: only `access` looks into it.
    `refusal` says why this caller may use only what is open to anyone; None: may use all.
    """

    __slots__ = (
        "address",
        "connection",
        "host",
        "is_authorized",
        "is_secure",
        "proof",
        "reason",
        "refusal",
        "transport",
        "user",
        "verb",
        "ways",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        address: str | None = None,
        connection: Peer | None = None,
        verb: Verb | None = None,
        host: str = "",
        is_secure: bool = False,
        refusal: str | None = None,
        reason: str = "login_required",
        user: str | None = None,
        proof: object = None,
    ) -> None:
        self.transport, self.address, self.connection, self.verb = transport, address, connection, verb
        self.ways = transport.value  # a plain number: operators of Flag cost more than the rest of the check
        self.host, self.is_secure = host, is_secure  # of the HTTP request, for links
        self.refusal, self.reason = refusal, reason
        self.user, self.proof = user, proof
        self.is_authorized = refusal is None

    def grant(self, user: str | None, proof: object) -> None:
        """The caller has shown who it is."""
        self.user, self.proof, self.refusal, self.is_authorized = user, proof, None, True

    def withdraw(self, refusal: str | None) -> None:
        """What was shown counts no more."""
        self.user, self.proof, self.refusal, self.is_authorized = None, None, refusal, refusal is None

    def refused(self) -> Unauthorized:
        """The answer to a caller that is not authorized."""
        return Unauthorized(self.refusal or "log in first", self.reason)


INTERNAL = Call(Transport.INTERNAL)
"""The server itself: remote methods of Klippy, components."""
