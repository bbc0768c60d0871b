"""HTTP/1.1: requests in, answers out, one object per connection (RFC 9110, RFC 9112).

The requests of a connection are handled one after the other. Bytes are parsed only when all requests before them have
been answered, in pieces of PIECE_BYTES; while some are waiting the socket is not read. So a client that sends requests
without reading answers holds up nobody but itself, and costs one read and one piece.

What the parser (llhttp, strict) refuses by itself, and the tests check: Content-Length together with
Transfer-Encoding, several or badly written Content-Lengths, folded header lines, spaces before a colon, control
characters, bare CR or LF.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httptools

from moonfast.access.cors import OriginRule
from moonfast.access.gate import CREDENTIALS, Gate
from moonfast.access.trusted import TrustedClients, read_address
from moonfast.api.call import Call, FileAnswer, HttpAnswer
from moonfast.api.endpoint import Endpoint
from moonfast.api.invoke import Invoker, as_api_error
from moonfast.api.params import Arguments, Body
from moonfast.api.table import EndpointTable, allowed
from moonfast.codec import Raw, encode
from moonfast.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    UriTooLong,
)
from moonfast.speedups import fanout
from moonfast.transports import response
from moonfast.transports.body import read_arguments
from moonfast.transports.file_response import prepare, too_many_open
from moonfast.transports.router import Router, split_target
from moonfast.transports.sendfile import FileSender
from moonfast.transports.upgrade import Upgrade, UpgradeRequired, accepted, check
from moonfast.transports.upload import MultipartUpload
from moonfast.transports.websocket import announce_backlog, attach_outbox
from moonfast.vocab import Access, Transport, Verb

log = logging.getLogger(__name__)

PIECE_BYTES = 4096
"""Parsed at once: bounds how many requests can wait, and by how much the head of one can pass its limit unnoticed."""
DRAIN_BYTES = 64 * 1024
"""The body of a refused request up to this size is read and forgotten; for a longer one the connection ends."""
SWEEP_S = 1.0
"""How often the time limits are looked at."""
MIN_PROGRESS_BYTES = 1024
"""Of a body, that have to arrive within `body_s`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of the server. Times are kept to within SWEEP_S."""

    connections: int = 1000  # plain HTTP; WebSockets are counted by the hub
    target_bytes: int = 32 * 1024
    head_bytes: int = 64 * 1024
    body_bytes: int = 16 * 1024 * 1024
    all_bodies_bytes: int = 64 * 1024 * 1024  # held for all connections together
    head_s: float = 20.0  # from the first byte of a head to its last
    body_s: float = 30.0  # for MIN_PROGRESS_BYTES of the body, or its end
    idle_s: float = 120.0
    write_s: float = 60.0  # without the client taking a byte
    linger_s: float = 2.0  # for the client to read a refusal while it still sends


_ONCE = (
    "host",
    "origin",
    "content-type",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "expect",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-fetch-site",
    "x-real-ip",
    "access-control-request-method",
    "access-control-request-private-network",
    "if-modified-since",
    "if-range",
    "range",
)
_LISTS = (
    "accept-encoding",
    "connection",
    "if-none-match",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-scheme",
)
WANTED = {name.encode(): name for name in (*_ONCE, *sorted(CREDENTIALS), *_LISTS)}
"""The headers that are looked at; all others are passed over unread."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]{0,5})?")
_FORWARDING = frozenset(("x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-scheme"))
_READING_METHODS = ("GET", "HEAD", "OPTIONS")
_VERBS = {"GET": Verb.GET, "HEAD": Verb.GET, "POST": Verb.POST, "DELETE": Verb.DELETE}
_PAGE_METHODS = ("GET", "HEAD", "OPTIONS")
_CLOSE = b"Connection: close\r\n"
_VARY = b"Vary: Origin\r\n"

_IDLE, _HEAD, _BODY = range(3)  # what of a request has been read


class _Request:
    """One request, from the end of its head to its answer."""

    __slots__ = (
        "answer",
        "body",
        "call",
        "endpoint",
        "error",
        "extra",
        "factory",
        "headers",
        "held_bytes",
        "is_head",
        "is_kept_alive",
        "key",
        "path",
        "query",
        "upload",
        "variables",
        "wants_continue",
    )

    def __init__(self, headers: dict[str, str], is_head: bool, is_kept_alive: bool) -> None:
        self.headers, self.is_head, self.is_kept_alive = headers, is_head, is_kept_alive
        self.path = self.query = self.key = ""
        self.extra = b""  # header lines of the answer
        self.call: Call | None = None
        # what answers it, one of these
        self.error: ApiError | None = None
        self.answer: HttpAnswer | None = None
        self.factory: Callable[[Upgrade], asyncio.Protocol] | None = None
        self.endpoint: Endpoint | None = None
        self.body: bytearray | None = None
        self.held_bytes = 0
        self.upload: MultipartUpload | None = None  # takes the body
        self.variables: dict[str, str] = {}  # of the path
        self.wants_continue = False


class Site:
    """All HTTP of one server: what its connections share. The listening socket is the owner's.

    `pages` are documents by path, `websockets` the makers of protocols by path: they may raise an ApiError. Those in
    `open_sockets` check by themselves what their client may do.
    `has_room` says whether one more WebSocket may open for a caller. `refuse_unknown` may give a better error than "not
    found" for a path that is not there: while Klippy is away its endpoints are not.
    """

    def __init__(
        self,
        table: EndpointTable,
        invoker: Invoker,
        origins: OriginRule,
        trusted: TrustedClients,
        gate: Gate,
        pump: fanout.Pump,
        *,
        prefix: str = "",
        websockets: Mapping[str, Callable[[Upgrade], asyncio.Protocol]] | None = None,
        open_sockets: Iterable[str] = (),
        pages: Mapping[str, HttpAnswer] | None = None,
        has_room: Callable[[Call], bool] = lambda call: True,
        refuse_unknown: Callable[[str], ApiError | None] = lambda path: None,
        use_xheaders: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.router = Router(table, prefix)
        self.invoker, self.origins, self.trusted, self.gate, self.pump = invoker, origins, trusted, gate, pump
        self.websockets = dict(websockets or {})
        self.open_sockets = frozenset(open_sockets)
        self.pages = {path: response.Page(answer) for path, answer in (pages or {}).items()}
        self.has_room, self.use_xheaders, self._refuse_unknown = has_room, use_xheaders, refuse_unknown
        self.limits = limits or Limits()
        self.composer = response.Composer()
        self.connections: set[HttpConnection] = set()
        self.held_bytes = 0  # of bodies
        self.is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def unknown(self, path: str) -> ApiError:
        """The error for a path that is not there."""
        return self._refuse_unknown(path) or NotFound("Not Found")

    def enter(self, connection: HttpConnection) -> bool:
        """Take in a connection; False: there are too many."""
        if len(self.connections) >= self.limits.connections or self.is_stopping:
            return False
        self.connections.add(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        return True

    def leave(self, connection: HttpConnection) -> None:
        self.connections.discard(connection)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        for connection in list(self.connections):
            connection.tick(now)
        if self.connections and not self.is_stopping:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Close all connections, at the end of a stop: what has been answered and can be sent at once is still sent."""
        self.is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self.connections):
            connection.stop()


class HttpConnection(asyncio.Protocol):
    """One client. `_work` is the only place where things move on."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._outbox: fanout.Outbox
        self._parser: Any = httptools.HttpRequestParser(self)
        self._unfed = b""  # received, not parsed
        self._reads = True
        self._is_deaf = False  # whatever comes is forgotten: the connection ends with the answers that are due
        self._is_working = False
        self._is_ending = False  # the last answer is given
        self._is_cut = False  # the last answer was given before the request was read
        self._has_eof = False
        # the request being read
        self._phase = _HEAD
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._stalled_bytes = 0  # parsed since the head last got on
        self._request: _Request | None = None
        # requests read
        self._waiting: deque[_Request] = deque()
        self._active: _Request | None = None
        self._successor: asyncio.Protocol | None = None  # takes over the transport: a WebSocket
        self._sender: FileSender | None = None  # sends the answer to the active request
        self._upload_left = -1  # bytes of an upload that come past the parser; -1: none do
        self._call: Call | None = None
        self._call_key: object = None
        # time limits
        self._since = 0.0  # loop time when the present phase began; 0: after the last tick
        self._progress_bytes = 0
        self._unsent_bytes = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address = read_address(peer[0]) if peer else None
        self._peer = str(address) if address is not None else ""
        self._is_encrypted = isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        self._outbox = attach_outbox(self._site.pump, self._transport)
        self._outbox.on_overflow = self.abort
        announce_backlog(self._transport)
        if not self._site.enter(self):
            self._refuse(Unavailable("Too many connections: close some, or try again later"))
            self._work()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unfed = self._unfed + data if self._unfed else data
        self._work()

    def eof_received(self) -> bool:
        """A client may close its side and still wait for answers; over TLS it cannot."""
        self._has_eof = True
        self._work()
        return not self._is_encrypted and (self._active is not None or bool(self._waiting) or self._outbox.blocked)

    def pause_writing(self) -> None:
        self._outbox.paused()

    def resume_writing(self) -> None:
        self._outbox.resumed()
        self._since = 0.0
        if self._sender is not None:
            self._sender.go_on()
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._outbox.close()
        self._let_go()

    def _let_go(self) -> None:
        """Leave the site and forget what was read."""
        self._site.leave(self)
        self._is_deaf = True
        for request in (*self._waiting, self._request, self._active):
            if request is not None:
                self._release_body(request)
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        self._waiting.clear()
        self._request = self._active = None
        self._unfed = b""
        self._parser = None  # it holds this object

    # moving on

    def _work(self) -> None:
        """Answer what waits, then parse more, as long as nothing has to be waited for."""
        if self._is_working or self._transport is None:
            return
        self._is_working = True
        pump = self._site.pump
        pump.cork()  # the answers to one read go out in one piece
        try:
            while self._active is None and not self._is_ending and self._successor is None:
                if self._waiting:
                    if self._outbox.blocked:
                        break
                    self._run(self._waiting.popleft())
                elif self._unfed and not self._is_deaf and not self._is_upload_full():
                    self._feed()
                else:
                    if self._request is not None and self._request.wants_continue:
                        self._request.wants_continue = False
                        self._outbox.send(response.CONTINUE)
                    break
        finally:
            pump.uncork()
            self._is_working = False
        if self._transport is not None:
            self._settle()

    def _settle(self) -> None:
        """After work: end, hand over, read on or not."""
        assert self._transport is not None
        if self._successor is not None:
            self._hand_over()
        elif self._is_ending:
            self._end()
        elif self._has_eof and self._active is None and not self._waiting and not self._unfed:
            self._is_ending = True
            self._end()
        elif bool(self._unfed) == self._reads:
            self._reads = not self._reads
            if self._reads:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _feed(self) -> None:
        """Parse one piece of what has come."""
        if self._upload_left >= 0:
            self._feed_upload()
            return
        piece = self._unfed[:PIECE_BYTES]
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as exc:
            # The bytes behind the head are the WebSocket's, or, where there is none, the next request.
            self._unfed = self._unfed[exc.args[0] :]
            return
        except httptools.HttpParserCallbackError as exc:  # a bug in one of the methods that follow
            self._unfed = b""
            log.error("A request could not be taken in", exc_info=exc.__context__ or exc)
            self._refuse(InternalError("Internal error: see the server's log"))
            return
        except httptools.HttpParserError as exc:
            self._unfed = b""
            if not self._is_deaf:
                self._refuse(BadRequest(f"The HTTP request cannot be read: {exc}"))
            return
        self._unfed = self._unfed[PIECE_BYTES:]
        if self._phase == _BODY and self._request is not None and self._request.upload is not None:
            length = self._request.headers.get("content-length")
            if length is not None:
                self._upload_left = int(length) - self._request.upload.fed_bytes
        if self._phase != _IDLE:
            # What the parser keeps for itself: an unfinished header or trailer; and chunks without content.
            self._stalled_bytes += len(piece)
            self._bound_head(self._stalled_bytes - PIECE_BYTES)

    def _is_upload_full(self) -> bool:
        request = self._request
        return request is not None and request.upload is not None and request.upload.is_full

    def _feed_upload(self) -> None:
        """Hand the body of an upload on as it came: nothing in it is the parser's business."""
        request = self._request
        assert request is not None
        assert request.upload is not None
        piece = self._unfed
        if len(piece) > self._upload_left:
            piece, self._unfed = piece[: self._upload_left], piece[self._upload_left :]
        else:
            self._unfed = b""
        self._upload_left -= len(piece)
        self._since = 0.0
        self._feed_form(request, piece)
        if self._upload_left == 0 and not self._is_deaf:
            self._upload_left = -1
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body
            self.on_message_complete()

    def _feed_form(self, request: _Request, piece: bytes) -> None:
        assert request.upload is not None
        try:
            request.upload.feed(piece)
        except ApiError as exc:
            self._cut(request, exc)

    def _upload_failed(self, request: _Request, error: ApiError) -> None:
        """Writing an upload failed while it still comes."""
        if request is self._request and not self._is_deaf:
            self._cut(request, error)
            self._work()

    # httptools: what the parser finds. After the connection went deaf it may find more in the same piece.

    def on_message_begin(self) -> None:
        if self._is_deaf:
            return
        self._phase, self._since = _HEAD, 0.0
        self._target, self._headers, self._head_bytes, self._stalled_bytes = b"", {}, 0, 0

    def on_url(self, part: bytes) -> None:
        if self._is_deaf:
            return
        self._target = self._target + part if self._target else part
        self._head_bytes += len(part)
        if len(self._target) > self._site.limits.target_bytes:
            limit = self._site.limits.target_bytes
            self._refuse(UriTooLong(f"The request line is longer than {limit} bytes: send arguments in a JSON body"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_deaf:
            return
        self._head_bytes += len(name) + len(value) + 4
        self._stalled_bytes = 0
        if self._head_bytes > self._site.limits.head_bytes:
            self._bound_head(self._head_bytes)
            return
        wanted = WANTED.get(name.lower())
        if wanted is None or self._phase == _BODY:  # trailers say nothing here
            return
        text = value.decode("latin-1")
        if wanted in self._headers:
            if wanted not in _LISTS:
                self._refuse(BadRequest(f"The header {wanted} came more than once"))
                return
            text = f"{self._headers[wanted]},{text}"
        self._headers[wanted] = text

    def _bound_head(self, size: int) -> None:
        limit = self._site.limits.head_bytes
        if size > limit and not self._is_deaf:
            self._refuse(HeadersTooLarge(f"The header is longer than {limit} bytes"))

    def on_headers_complete(self) -> None:
        if self._is_deaf:
            return
        parser, headers = self._parser, self._headers
        method = parser.get_method().decode("ascii")
        request = _Request(headers, method == "HEAD", parser.should_keep_alive())
        self._request = request
        try:
            self._admit(request, method, parser)
        except ApiError as exc:
            request.error = exc
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return
        if parser.should_upgrade():
            # The parser would not read this body but stop behind the head: it must not become the next request.
            self._refuse(BadRequest("A request with an Upgrade header has no body here"))
            return
        self._phase, self._since, self._progress_bytes = _BODY, 0.0, 0
        if request.error is None:
            try:
                self._expect_body(request, int(length) if "content-length" in headers else None)
            except ApiError as exc:
                request.error = exc
        is_long = "expect" in headers or "transfer-encoding" in headers or int(length) > DRAIN_BYTES
        if request.error is not None and is_long:
            self._cut(request, request.error)

    def _expect_body(self, request: _Request, length: int | None) -> None:
        """Make ready for a body. ApiError: it is not wanted."""
        limits, receiver = self._site.limits, request.endpoint.receiver if request.endpoint is not None else None
        if receiver is not None:
            upload = MultipartUpload(request.headers.get("content-type"), receiver(length))
            upload.sink.on_drained = self._work
            upload.sink.on_failed = lambda error: self._upload_failed(request, error)
            request.upload = upload
        elif length is not None and length > limits.body_bytes:
            raise _body_too_large(limits)
        else:
            request.body = bytearray()

    def on_body(self, part: bytes) -> None:
        request = self._request
        if self._is_deaf or request is None:
            return
        self._stalled_bytes = 0
        self._progress_bytes += len(part)
        if self._progress_bytes >= MIN_PROGRESS_BYTES:
            self._progress_bytes, self._since = 0, 0.0
        if request.upload is not None:
            self._feed_form(request, part)
        if request.body is None:
            return
        site, limits = self._site, self._site.limits
        request.body += part
        request.held_bytes += len(part)
        site.held_bytes += len(part)
        if request.held_bytes > limits.body_bytes:
            self._cut(request, _body_too_large(limits))
        elif site.held_bytes > limits.all_bodies_bytes:
            self._cut(request, Unavailable("Too many large requests at once: try again later"))

    def on_message_complete(self) -> None:
        if self._is_deaf or self._request is None:
            return
        self._phase, self._since = _IDLE, 0.0
        request, self._request = self._request, None
        request.wants_continue = False  # the body came without it
        self._waiting.append(request)
        if not request.is_kept_alive:
            self._is_deaf = True
            self._since = 0.0

    # refusals before a request is whole

    def _refuse(self, error: ApiError) -> None:
        """End the connection with an error, behind the answers that are due."""
        self._cut(self._request or _Request({}, False, False), error)

    def _cut(self, request: _Request, error: ApiError) -> None:
        """Answer before the request is read, and read no more."""
        self._release_body(request)
        request.error, request.is_kept_alive, request.wants_continue = error, False, False
        self._request = None
        self._is_deaf = self._is_cut = True
        self._since = 0.0
        self._waiting.append(request)

    def _release_body(self, request: _Request) -> None:
        self._site.held_bytes -= request.held_bytes
        request.held_bytes, request.body = 0, None
        if request.upload is not None:
            request.upload.abort()
            request.upload = None

    # what a head asks for

    def _admit(self, request: _Request, method: str, parser: Any) -> None:
        """Find what answers a request, before its body is read. Any ApiError is the answer."""
        headers, site = request.headers, self._site
        version = parser.get_http_version()
        host = headers.get("host")
        if version != "1.1":
            request.is_kept_alive = False
            if version != "1.0":
                raise BadRequest("This HTTP version is not spoken here: use HTTP/1.1")
        if (host is None and version == "1.1") or (host is not None and not _HOST.fullmatch(host)):
            request.is_kept_alive = False
            raise BadRequest("The Host header is missing or wrong")
        if len(headers) > 1 or host is None:
            self._check_framing(request, version)
        target = split_target(self._target.decode("latin-1"))
        if target is None:
            if method == "OPTIONS" and self._target == b"*":
                request.answer = HttpAnswer(status=204, headers=(("Allow", response.CORS_METHODS),))
                return
            request.is_kept_alive = False
            raise BadRequest("The request target must be a path")
        encoded, request.query = target
        call = request.call = self._call_for(headers, _VERBS.get(method), request.query)
        origin = headers.get("origin")
        is_foreign = origin is not None and not site.origins.allows(origin, call.host)
        if origin is not None:
            request.extra = _VARY if is_foreign else response.header_line("Access-Control-Allow-Origin", origin) + _VARY
        path = site.router.path(encoded)
        if method == "OPTIONS":
            request.answer = self._options(path, headers, origin is not None and not is_foreign)
            return
        if is_foreign and method not in _READING_METHODS:
            raise _foreign(headers)
        verbs = None if path is None else site.router.find(path)
        if verbs is None:
            template = site.router.find_template(encoded)
            if template is not None:
                verbs, request.variables = template
        if verbs is None:
            self._admit_other(request, method, encoded, path, is_foreign, parser)
            return
        endpoint = verbs.get("GET" if request.is_head else method)
        if endpoint is None:
            raise MethodNotAllowed(allowed(dict(verbs)))
        if (
            endpoint.is_remote
            and method in _READING_METHODS
            and (is_foreign or headers.get("sec-fetch-site") == "cross-site")
        ):
            raise Forbidden("Another site's page must not use this: Klippy's own endpoints can move the printer")
        if not call.is_authorized and endpoint.access is not Access.OPEN:
            raise call.refused()
        request.endpoint = endpoint

    def _check_framing(self, request: _Request, version: str) -> None:
        """Check what the headers say about the body."""
        headers = request.headers
        coding = headers.get("transfer-encoding")
        if coding is not None and (coding.lower() != "chunked" or version != "1.1"):
            request.is_kept_alive = False
            raise BadRequest("This Transfer-Encoding is not spoken here: use chunked, with HTTP/1.1")
        expectation = headers.get("expect")
        if expectation is not None and version == "1.1":
            if expectation.lower() != "100-continue":
                raise response.ExpectationFailed("Only 'Expect: 100-continue' can be met")
            request.wants_continue = True
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise response.UnsupportedMediaType("Compressed bodies are not read: send it without Content-Encoding")

    def _call_for(self, headers: dict[str, str], verb: Verb | None, query: str) -> Call:
        """Who asks. Most connections ask always the same."""
        host, epoch = headers.get("host", ""), self._site.gate.epoch
        is_forwarded = self._site.use_xheaders and not _FORWARDING.isdisjoint(headers)
        key = (verb, host, epoch, *map(headers.get, _FORWARDING)) if is_forwarded else (verb, host, epoch)
        shows_proof = not CREDENTIALS.isdisjoint(headers) or "token=" in query
        if key == self._call_key and self._call is not None and not shows_proof:
            return self._call
        site, address, is_secure = self._site, self._peer, self._is_encrypted
        if is_forwarded:
            address = site.trusted.client_address(self._peer, headers.get("x-forwarded-for"), headers.get("x-real-ip"))
            scheme = headers.get("x-forwarded-proto") or headers.get("x-scheme")
            if scheme is not None and site.trusted.serves(self._peer):
                is_secure = scheme.rpartition(",")[2].strip().lower() == "https"
        call = Call(
            Transport.HTTP,
            address=address,
            verb=verb,
            host=host,
            is_secure=is_secure,
            refusal=site.gate.refusal(address),
        )
        if shows_proof:
            site.gate.examine(call, headers, query)
        else:
            self._call_key, self._call = key, call
        return call

    def _options(self, path: str | None, headers: dict[str, str], is_own_page: bool) -> HttpAnswer:
        """What may be done: asked by a browser for a page of another site (Fetch standard), or by anyone."""
        if is_own_page and "access-control-request-method" in headers:
            lines = [
                ("Access-Control-Allow-Methods", response.CORS_METHODS),
                ("Access-Control-Allow-Headers", response.CORS_HEADERS),
                ("Access-Control-Max-Age", str(response.CORS_MAX_AGE_S)),
            ]
            if headers.get("access-control-request-private-network") == "true":
                lines.append(("Access-Control-Allow-Private-Network", "true"))
            return HttpAnswer(status=204, headers=tuple(lines))
        site = self._site
        verbs = None if path is None else site.router.find(path)
        if verbs is not None:
            methods = allowed(dict(verbs))
        elif path in site.pages or path in site.websockets:
            methods = _PAGE_METHODS
        else:
            raise site.unknown(path or "")
        return HttpAnswer(status=204, headers=(("Allow", ", ".join(methods)),))

    def _admit_other(
        self, request: _Request, method: str, encoded: str, path: str | None, is_foreign: bool, parser: Any
    ) -> None:
        """A path that is no endpoint's: a page, a WebSocket, or nothing."""
        site, call = self._site, request.call
        assert call is not None
        factory = None if path is None else site.websockets.get(path)
        page = None if path is None else site.pages.get(path)
        # a WebSocket may open without a login, and log in then; but not with a credential that is wrong
        if not call.is_authorized and (path not in site.open_sockets or call.reason != "login_required"):
            raise call.refused()
        if factory is None and page is None:
            raise site.unknown(encoded if path is None else path)
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(_PAGE_METHODS)
        if page is not None and path == "/" and not encoded.endswith("/"):
            # the prefix alone: the addresses in the page are relative to the folder that it names
            request.answer = HttpAnswer(status=308, headers=(("Location", f"{site.router.prefix}/"),))
        elif page is not None:
            request.answer = page.answer(request.headers.get("if-none-match"))
        if page is not None:
            return
        assert path is not None
        request.key = check(method, parser.get_http_version(), request.headers)
        if not parser.should_upgrade():  # the parser has to stop behind the head, or it would read frames as requests
            raise UpgradeRequired("This path speaks WebSocket: connect with a WebSocket client")
        if is_foreign:
            raise _foreign(request.headers)
        if not site.has_room(call):
            raise Unavailable("Too many WebSockets are open: raise max_websocket_connections in the section [server]")
        request.path, request.factory = path, factory

    # answering

    def _run(self, request: _Request) -> None:
        """Answer one request, now or when its handler is done."""
        self._active = request
        if request.error is not None:
            self._answered(None, request.error)
        elif request.endpoint is not None:
            assert request.call is not None
            try:
                arguments = self._arguments(request, request.endpoint)
            except ApiError as exc:
                self._answered(None, exc)
                return
            self._site.invoker.invoke(request.endpoint, request.call, arguments, self._answered)
        elif request.factory is not None:
            self._open_websocket(request)
        else:
            self._answered(request.answer, None)

    def _arguments(self, request: _Request, endpoint: Endpoint) -> Arguments:
        if endpoint.receiver is not None:
            upload, request.upload = request.upload, None
            if upload is None:
                raise BadRequest("There is no form: send the file as multipart/form-data")
            assert endpoint.parameters.body_name is not None
            return {endpoint.parameters.body_name: upload.finish()}
        body = bytes(request.body) if request.body else b""
        self._release_body(request)
        if endpoint.parameters.body_name is not None:
            return {endpoint.parameters.body_name: Body(body)}
        if not body and not request.query:
            return dict(request.variables)
        return read_arguments(request.query, request.headers.get("content-type"), body) | request.variables

    def _answered(self, result: Any, error: ApiError | None) -> None:
        """The end of each request; `result` as a handler returns it."""
        request = self._active
        if request is None or self._transport is None:
            return  # the client has gone
        self._release_body(request)
        if isinstance(result, FileAnswer) and error is None:
            try:
                self._send_file(request, result)
                return
            except ApiError as exc:
                error = exc
        self._active = None
        if self._site.is_stopping:
            request.is_kept_alive = False
        extra = request.extra if request.is_kept_alive else request.extra + _CLOSE
        if error is None:
            try:
                data = self._composed(request, result, extra)
            except (TypeError, ValueError, KeyError) as exc:
                error = self._unsendable(request, exc)
        if error is not None:
            data = self._site.composer.error(error, extra, request.is_head)
        self._outbox.send(data)
        self._is_answered(request)

    def _is_answered(self, request: _Request) -> None:
        self._since = 0.0
        if not request.is_kept_alive:
            self._waiting.clear()
            self._is_deaf = self._is_ending = True
        self._work()

    def _send_file(self, request: _Request, answer: FileAnswer) -> None:
        """Answer with a file; the request stays active until it is sent."""
        assert self._transport is not None
        if self._site.is_stopping:
            request.is_kept_alive = False
        extra = request.extra if request.is_kept_alive else request.extra + _CLOSE
        prepared = prepare(answer, request.headers, extra, request.is_head)
        try:
            self._sender = FileSender(self._transport, self._outbox, prepared, self._file_sent)
        except OSError:
            os.close(prepared.descriptor)
            raise too_many_open() from None
        self._sender.go_on()

    def _file_sent(self, is_whole: bool) -> None:
        request, self._active, self._sender = self._active, None, None
        if request is None or self._transport is None:
            return
        if not is_whole:
            self.abort()  # the client must see that the answer is not whole
            return
        self._is_answered(request)

    def _composed(self, request: _Request, result: Any, extra: bytes) -> bytes:
        composer = self._site.composer
        if isinstance(result, HttpAnswer):
            return composer.answer(result, extra, request.is_head)
        assert request.endpoint is not None
        text = result if type(result) is Raw else encode(result)
        return composer.result(text, extra, request.endpoint.is_wrapped, request.is_head)

    def _unsendable(self, request: _Request, exc: Exception) -> ApiError:
        if request.endpoint is None:
            log.error("A page cannot be sent", exc_info=exc)
            return InternalError("Internal error: see the server's log")
        return as_api_error(exc, request.endpoint)

    # becoming a WebSocket

    def _open_websocket(self, request: _Request) -> None:
        assert request.factory is not None
        assert request.call is not None
        try:
            call = request.call
            own = Call(  # the WebSocket's own: it lives longer than this request
                Transport.WEBSOCKET,
                address=call.address,
                host=call.host,
                is_secure=call.is_secure,
                refusal=call.refusal,
                user=call.user,
                proof=call.proof,
            )
            self._successor = request.factory(Upgrade(request.path, own))
        except ApiError as exc:
            self._answered(None, exc)
            return
        self._outbox.send(accepted(request.key))

    def _is_all_sent(self) -> bool:
        """Whether every answer is out of the outbox; if not, `_work` is called again."""
        if self._outbox.blocked:
            return False  # the client has to read first
        if self._outbox.queued_bytes:  # corked, by what brought the answer: it goes out in this turn of the loop
            asyncio.get_running_loop().call_soon(self._work)
            return False
        return True

    def _hand_over(self) -> None:
        """Give the transport away when the answer to the upgrade is on its way, with what came behind the request."""
        transport, successor = self._transport, self._successor
        assert transport is not None
        assert successor is not None
        if not self._is_all_sent():
            return
        rest = self._unfed
        self._outbox.close()
        self._transport = self._successor = None
        self._let_go()
        if not self._reads:
            transport.resume_reading()
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if rest and not transport.is_closing():
            successor.data_received(rest)

    # ending

    def _end(self) -> None:
        """Close when everything is sent. A client that still sends gets time to read the answer first."""
        transport = self._transport
        assert transport is not None
        if not self._is_all_sent():
            return
        self._unfed = b""
        if self._is_cut and not self._has_eof:
            if not self._reads:
                self._reads = True
                transport.resume_reading()
            if transport.can_write_eof() and not self._is_encrypted:
                transport.write_eof()
            return  # until the client closes, or linger_s
        self._outbox.close()
        transport.close()

    def stop(self) -> None:
        """Close now; a client that does not read is cut off."""
        transport = self._transport
        if transport is None:
            return
        if self._outbox.queued_bytes or self._outbox.blocked:
            self.abort()
            return
        self._is_deaf = self._is_ending = True
        self._outbox.close()
        transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        self._outbox.close()
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        """Look at the time limits."""
        if self._transport is None:
            return
        if self._since == 0.0:
            self._since = now
        spent, limits = now - self._since, self._site.limits
        if self._outbox.blocked:
            unsent = self._outbox.queued_bytes + self._transport.get_write_buffer_size()
            if unsent != self._unsent_bytes:
                self._unsent_bytes, self._since = unsent, now
            elif spent > limits.write_s:
                log.info("An HTTP client that does not read is cut off")
                self.abort()
        elif self._is_ending:
            if spent > limits.linger_s:
                self.abort()
        elif self._sender is not None:
            if self._sender.sent_bytes != self._unsent_bytes:
                self._unsent_bytes, self._since = self._sender.sent_bytes, now
            elif spent > limits.write_s:
                log.info("An HTTP client that does not read is cut off")
                self.abort()
        elif self._active is not None or self._is_upload_full():
            self._since = now  # a handler may take its time: a gcode script has none; so may the disk
        elif self._phase == _IDLE:
            if spent > limits.idle_s:
                self.stop()
        elif spent > (limits.head_s if self._phase == _HEAD else limits.body_s):
            if self._phase == _HEAD and not self._head_bytes:
                self.stop()
            else:
                self._refuse(response.RequestTimeout("The request took too long to arrive"))
                self._work()


def _foreign(headers: Mapping[str, str]) -> Forbidden:
    return Forbidden(f"Pages of {headers['origin']} may not use this server: add it to cors_domains in [authorization]")


def _body_too_large(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limits.body_bytes} bytes")
