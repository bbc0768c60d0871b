"""HTTP/1.1 on the server's side (RFC 9112): one object per connection.

Requests of one connection are answered in order, one at a time; those that follow wait, a bounded number of them, and
the connection is not read meanwhile. A response goes into the same outbox that WebSockets use.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import httptools

from moonfast.access.cors import OriginRule
from moonfast.access.trusted import TrustedClients
from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import Endpoint
from moonfast.api.invoke import Invoker
from moonfast.api.params import Arguments, Body, from_json, from_query
from moonfast.api.table import EndpointTable, allowed
from moonfast.codec import Raw, encode
from moonfast.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    HeadersTooLarge,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unauthorized,
    Unavailable,
    UriTooLong,
)
from moonfast.speedups import fanout
from moonfast.transports.response import CLOSE_HEADER, CONTINUE, JSON_TYPE, error_body, ok_json, response
from moonfast.transports.router import Target, split_target
from moonfast.transports.upgrade import Upgrade, accepted, check
from moonfast.transports.websocket import attach_outbox
from moonfast.vocab import Transport

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
MAX_TARGET_BYTES = 32 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_WAITING = 16
"""Requests of one connection that are read while one is handled."""
MAX_CONNECTIONS = 2000

HEAD_TIMEOUT_S = 20.0
BODY_TIMEOUT_S = 60.0
"""Without a byte of the body."""
IDLE_TIMEOUT_S = 120.0
LINGER_S = 2.0
"""A refused request may go on being sent; for this long it is read and ignored, so that the answer arrives."""
SWEEP_S = 2.0

CORS_METHODS = "GET, POST, PUT, DELETE, OPTIONS"
CORS_HEADERS = "Origin, Accept, Content-Type, X-Requested-With, X-CRSF-Token, Authorization, X-Api-Key"


class ExpectationFailed(ApiError):
    status = 417


class Unsupported(ApiError):
    status = 415


class Site:
    """What all connections of one server share.

    `websockets` gives for a path the protocol that takes over after the upgrade; `pages` gives static answers.
    `refuse_unknown` may give a better error than "not found" for a path that is not in the table.
    """

    def __init__(
        self,
        *,
        table: EndpointTable,
        invoker: Invoker,
        origins: OriginRule,
        trusted: TrustedClients,
        pump: fanout.Pump,
        websockets: Mapping[str, Callable[[Upgrade], asyncio.Protocol]],
        pages: Mapping[str, HttpAnswer],
        has_room: Callable[[], bool] = lambda: True,
        refuse_unknown: Callable[[str], ApiError | None] = lambda path: None,
        prefix: str = "",
        use_xheaders: bool = True,
    ) -> None:
        self.table, self.invoker, self.origins, self.trusted, self.pump = table, invoker, origins, trusted, pump
        self.websockets, self.pages, self.has_room = websockets, pages, has_room
        self.refuse_unknown, self.prefix, self.use_xheaders = refuse_unknown, prefix, use_xheaders
        self._connections: set[HttpConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False

    def enter(self, connection: HttpConnection) -> bool:
        """Take a connection in; False: there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS or self._is_stopping:
            return False
        self._connections.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return True

    def leave(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)

    def _sweep(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            connection.sweep(loop.time())
        if self._connections and not self._is_stopping:
            self._timer = loop.call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Close all connections; what has been answered is still sent."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections):
            connection.end()


class _Request:
    """One request, complete."""

    __slots__ = ("body", "headers", "is_last", "method", "raw_target", "version")

    def __init__(self, method: str, raw_target: bytes, version: str, headers: dict[str, str]) -> None:
        self.method, self.raw_target, self.version, self.headers = method, raw_target, version, headers
        self.body = b""
        self.is_last = False  # the connection is closed after the answer


class HttpConnection(asyncio.Protocol):
    """One connection, until it is closed or becomes a WebSocket."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._outbox: fanout.Outbox
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        self._is_secure = False
        self._loop = asyncio.get_running_loop()
        # what is being parsed
        self._target: list[bytes] = []
        self._header_list: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0  # fed since the last complete request
        self._in_head = False
        self._in_body = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._request: _Request | None = None
        self._refused = False  # what still comes is ignored
        # what is being answered
        self._waiting: deque[_Request] = deque()
        self._current: _Request | None = None
        self._extra = b""
        self._is_pumping = False
        self._reads = True
        self._deadline = self._loop.time() + IDLE_TIMEOUT_S
        self._is_ending = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if peername else ""
        self._is_secure = isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        self._outbox = attach_outbox(self._site.pump, self._transport)
        self._outbox.on_overflow = self._abort
        self._outbox.on_drained = self._drained
        if not self._site.enter(self):
            self._refuse(Unavailable("Too many connections: try again later"))

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data)
        pump = self._site.pump
        pump.cork()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._upgraded(data[exc.args[0] :])
        except httptools.HttpParserCallbackError as exc:
            raise exc.__context__ or exc from None
        except httptools.HttpParserError:
            self._refuse(BadRequest("The request is malformed (RFC 9112)"))
        finally:
            pump.uncork()
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self._refused:
            self._check_head_size()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._outbox.paused()

    def resume_writing(self) -> None:
        self._outbox.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._outbox.close()
        self._transport = None
        self._waiting.clear()
        self._site.leave(self)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target, self._header_list = [], []
        self._body, self._body_bytes = [], 0
        self._deadline = self._loop.time() + HEAD_TIMEOUT_S

    def on_url(self, url: bytes) -> None:
        self._target.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_list.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused:
            return
        raw_target = b"".join(self._target)
        size = len(raw_target) + sum(len(name) + len(value) + 4 for name, value in self._header_list)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._header_list}
        request = _Request(
            self._parser.get_method().decode("latin-1"), raw_target, self._parser.get_http_version(), headers
        )
        self._request = request
        self._extra = b""
        if len(raw_target) > MAX_TARGET_BYTES:
            self._refuse(UriTooLong(f"The request target is longer than {MAX_TARGET_BYTES} bytes: use a JSON body"))
        elif size > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge(f"The headers are longer than {MAX_HEAD_BYTES} bytes"))
        elif request.version == "1.1" and "host" not in headers:
            self._refuse(BadRequest("The Host header is missing (RFC 9112 section 3.2)"))
        else:
            self._expect_body(headers)

    def _expect_body(self, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "")
        if length and "transfer-encoding" in headers:
            self._refuse(BadRequest("Content-Length and Transfer-Encoding exclude each other"))
        elif length.isdigit() and int(length) > MAX_BODY_BYTES:
            self._refuse(_body_too_large())
        elif "expect" in headers:
            if headers["expect"].lower() != "100-continue":
                self._refuse(ExpectationFailed("Only 'Expect: 100-continue' is understood"))
            elif self._current is None and not self._waiting:
                self._outbox.send(CONTINUE)
        self._in_body = True
        self._deadline = self._loop.time() + BODY_TIMEOUT_S

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._body_bytes += len(body)
        self._deadline = self._loop.time() + BODY_TIMEOUT_S
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(_body_too_large())
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        request, self._request = self._request, None
        if self._refused or request is None:
            return
        request.body = b"".join(self._body)
        self._body = []
        request.is_last = not self._parser.should_keep_alive() or request.version != "1.1"
        self._deadline = self._loop.time() + IDLE_TIMEOUT_S
        self._waiting.append(request)
        if len(self._waiting) > MAX_WAITING:
            self._hold()
        if not self._parser.should_upgrade():
            self._pump_requests()

    # answering

    def _pump_requests(self) -> None:
        """Handle what waits, in order, as long as answers come at once and the client reads them."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._waiting and self._current is None and not self._is_ending and not self._outbox.blocked:
                self._current = self._waiting.popleft()
                self._handle(self._current)
        finally:
            self._is_pumping = False
        if not self._reads and len(self._waiting) <= MAX_WAITING // 2 and self._transport is not None:
            self._reads = True
            self._transport.resume_reading()

    def _hold(self) -> None:
        if self._reads and self._transport is not None:
            self._reads = False
            self._transport.pause_reading()

    def _handle(self, request: _Request) -> None:
        try:
            self._dispatch(request)
        except ApiError as exc:
            self._answer_error(request, exc)

    def _dispatch(self, request: _Request) -> None:
        site, headers, method = self._site, request.headers, request.method
        origin, host = headers.get("origin"), headers.get("host", "")
        is_allowed = site.origins.allows(origin, host)
        self._extra = b"" if origin is None else _cors_headers(origin, headers) if is_allowed else b"Vary: Origin\r\n"
        target = split_target(request.raw_target, site.prefix)
        if target is None:
            raise NotFound("Not Found")
        verbs = site.table.by_path(target.path)
        if method == "OPTIONS":
            self._answer_options(request, target, verbs)
            return
        if not is_allowed and method not in ("GET", "HEAD"):
            raise Forbidden(f"Pages of {origin} may not use this server: add it to cors_domains in [authorization]")
        if verbs is None:
            self._answer_other(request, target)
            return
        endpoint = verbs.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            raise MethodNotAllowed(allowed(verbs))
        is_foreign = not is_allowed or headers.get("sec-fetch-site") == "cross-site"
        if is_foreign and endpoint.is_remote and method in ("GET", "HEAD"):
            raise Forbidden("Pages of other sites may not use this path")  # it may change something: Klippy's own
        call = self._call(request)
        arguments = _arguments(request, target, endpoint)
        site.invoker.invoke(
            endpoint, call, arguments, lambda result, error: self._done(request, endpoint, result, error)
        )

    def _call(self, request: _Request) -> Call:
        site, headers = self._site, request.headers
        address = self._peer
        if site.use_xheaders and ("x-forwarded-for" in headers or "x-real-ip" in headers):
            address = site.trusted.client_of(self._peer, headers.get("x-forwarded-for"), headers.get("x-real-ip"))
        return Call(
            Transport.HTTP,
            address=address,
            host=headers.get("host", ""),
            is_secure=self._is_secure,
            refusal=site.trusted.refusal(address),
        )

    def _done(self, request: _Request, endpoint: Endpoint, result: Any, error: ApiError | None) -> None:
        if self._current is not request:
            return  # the connection is gone, or was refused meanwhile
        if error is not None:
            self._answer_error(request, error)
        elif isinstance(result, HttpAnswer):
            self._answer(request, result)
        else:
            if type(result) is not Raw:
                try:
                    result = encode(result)
                except TypeError:
                    log.exception("%r returned what is not JSON", endpoint)
                    self._answer_error(request, ApiError("The result cannot be written as JSON"))
                    return
            body = b'{"result":%b}' % result if endpoint.is_wrapped else bytes(result)
            self._send(request, ok_json(body, self._extra_of(request), request.method != "HEAD"))

    def _answer_options(self, request: _Request, target: Target, verbs: dict[str, Endpoint] | None) -> None:
        if verbs is None and target.path not in self._site.pages and target.path not in self._site.websockets:
            refusal = self._site.refuse_unknown(target.path)
            if refusal is None:
                raise NotFound("Not Found")
        headers = (("Allow", ", ".join(allowed(verbs) if verbs else ("GET", "HEAD", "OPTIONS"))),)
        self._answer(request, HttpAnswer(status=204, headers=headers))

    def _answer_other(self, request: _Request, target: Target) -> None:
        site = self._site
        if target.path in site.websockets:
            check(request.method, request.version, request.headers)
            raise BadRequest("The opening handshake is not complete")
        page = site.pages.get(target.path)
        if page is not None:
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(("GET", "HEAD", "OPTIONS"))
            refusal = self._call(request).refusal
            if refusal is not None:
                raise Unauthorized(refusal)
            etag = next((value for name, value in page.headers if name == "ETag"), None)
            if etag is not None and request.headers.get("if-none-match") == etag:
                page = HttpAnswer(status=304, headers=page.headers)
            self._answer(request, page)
            return
        raise site.refuse_unknown(target.path) or NotFound("Not Found")

    def _answer(self, request: _Request, answer: HttpAnswer) -> None:
        self._send(
            request,
            response(
                answer.status,
                answer.body,
                content_type=answer.content_type,
                headers=answer.headers,
                extra=self._extra_of(request),
                has_body=request.method != "HEAD",
            ),
        )

    def _answer_error(self, request: _Request, error: ApiError) -> None:
        headers: tuple[tuple[str, str], ...] = ()
        if isinstance(error, MethodNotAllowed):
            headers = (("Allow", ", ".join(error.allowed)),)
        elif error.status == 426:
            headers = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
        self._send(
            request,
            response(
                error.status,
                error_body(error),
                content_type=JSON_TYPE,
                headers=headers,
                extra=self._extra_of(request),
                has_body=request.method != "HEAD",
            ),
        )

    def _extra_of(self, request: _Request) -> bytes:
        return self._extra + CLOSE_HEADER if request.is_last else self._extra

    def _send(self, request: _Request, data: bytes) -> None:
        self._current = None
        if self._transport is None:
            return
        self._outbox.send(data)
        if request.is_last:
            self.end()
        else:
            self._deadline = self._loop.time() + IDLE_TIMEOUT_S
            self._pump_requests()

    def _drained(self) -> None:
        if self._is_ending:
            self._close_when_sent()
        else:
            self._pump_requests()

    # upgrade

    def _upgraded(self, rest: bytes) -> None:
        """The parser stands behind the head of a request that asks for another protocol."""
        if not self._waiting or self._current is not None:
            self._refuse(BadRequest("An upgrade must be the first request of its connection, or follow on its answer"))
            return
        request = self._waiting.popleft()
        site = self._site
        self._current = request
        try:
            headers = request.headers
            target = split_target(request.raw_target, site.prefix)
            factory = site.websockets.get(target.path) if target is not None else None
            if factory is None or target is None:
                request.is_last = True  # another protocol, or another path: a plain answer, and no more
                self._dispatch(request)
                return
            key = check(request.method, request.version, headers)
            if not site.origins.allows(headers.get("origin"), headers.get("host", "")):
                raise Forbidden(f"Pages of {headers['origin']} may not use this server: add it to cors_domains")
            call = self._call(request)
            call.transport, call.ways = Transport.WEBSOCKET, Transport.WEBSOCKET.value
            if call.refusal is not None:
                raise Unauthorized(call.refusal)
            if not site.has_room():
                raise Unavailable("Too many WebSocket connections: raise max_websocket_connections in [server]")
        except ApiError as exc:
            request.is_last = True
            self._answer_error(request, exc)
            return
        transport = self._transport
        assert transport is not None
        protocol = factory(Upgrade(target.path, call))
        self._outbox.close()
        site.leave(self)
        self._refused, self._transport = True, None
        transport.write(accepted(key))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)

    # ending

    def _check_head_size(self) -> None:
        if not self._header_list and len(b"".join(self._target)) > MAX_TARGET_BYTES:
            self._refuse(UriTooLong(f"The request target is longer than {MAX_TARGET_BYTES} bytes: use a JSON body"))
        else:
            self._refuse(HeadersTooLarge(f"The headers are longer than {MAX_HEAD_BYTES} bytes"))

    def _refuse(self, error: ApiError) -> None:
        """Answer a request that is not read to its end, after those before it, and close."""
        if self._refused:
            return
        self._refused = True
        request = self._request or _Request("GET", b"/", "1.1", {})
        request.is_last = True
        self._in_head = self._in_body = False
        self._extra = b""
        if self._current is None and not self._waiting:
            self._current = request
            self._answer_error(request, error)
        else:
            self._abort()

    def end(self) -> None:
        """Close after what has been answered is sent. A client that still sends is read for a moment and ignored."""
        if self._is_ending or self._transport is None:
            return
        self._is_ending = self._refused = True
        self._deadline = self._loop.time() + LINGER_S
        self._waiting.clear()
        self._close_when_sent()

    def _close_when_sent(self) -> None:
        if self._transport is None or self._outbox.blocked:
            return  # `_drained` comes back, or the sweep ends it
        if self._outbox.queued_bytes:  # corked: it goes out before this turn of the loop ends
            self._loop.call_soon(self._close_when_sent)
            return
        is_complete = self._request is None
        self._outbox.close()
        if is_complete or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()

    def _abort(self) -> None:
        self._outbox.close()
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now: float) -> None:
        """Close what has been silent for too long."""
        if now < self._deadline or (self._current is not None and not self._is_ending):
            return
        if self._in_head or self._in_body:
            log.debug("%s: a request was not sent to its end in time", self._peer)
        self._abort()


def _body_too_large() -> ApiError:
    return PayloadTooLarge(f"The body is longer than {MAX_BODY_BYTES} bytes")


def _cors_headers(origin: str, headers: Mapping[str, str]) -> bytes:
    lines = f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"
    if "access-control-request-method" in headers:
        lines += f"Access-Control-Allow-Methods: {CORS_METHODS}\r\nAccess-Control-Allow-Headers: {CORS_HEADERS}\r\n"
        if headers.get("access-control-request-private-network") == "true":
            lines += "Access-Control-Allow-Private-Network: true\r\n"
    return lines.encode("latin-1")


def _arguments(request: _Request, target: Target, endpoint: Endpoint) -> Arguments:
    """All arguments of a request: those of the body over those of the query."""
    if endpoint.parameters.body_name is not None:
        return {endpoint.parameters.body_name: Body(request.body)}
    arguments = from_query(target.query) if target.query else {}
    body = request.body
    if body:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json" or (kind != "application/x-www-form-urlencoded" and body.lstrip()[:1] == b"{"):
            arguments.update(from_json(body))
        elif kind in ("application/x-www-form-urlencoded", ""):
            try:
                arguments.update(from_query(body.decode("utf-8")))
            except UnicodeDecodeError:
                raise BadRequest("The form is not UTF-8") from None
        else:
            raise Unsupported(f"A body of type '{kind}' is not understood here: send application/json")
    return arguments
