"""How an endpoint and a notification are declared. Everything else about them is read from the declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from moonfast.api.params import Parameters
from moonfast.api.upload import Receiver
from moonfast.vocab import Access, Transport, Verb

F = TypeVar("F", bound=Callable[..., Any])


class Endpoint:
    """One endpoint of one server, its handler bound.

    `path` is None where there is only a JSON-RPC method, `rpc_name` where there is only HTTP (the table fills it in).
    `is_remote`: Klippy offers it; it goes when Klippy goes.
    `is_wrapped`: over HTTP the result is put into `{"result": ...}`.
    `runs_as_task`: the handler uses asyncio.timeout or a library that asks for the current task, so that it cannot be
    stepped by hand.
    `receiver`: the request is a multipart form, which is taken in while it arrives.
    """

    __slots__ = (
        "access",
        "doc",
        "handler",
        "is_remote",
        "is_wrapped",
        "parameters",
        "path",
        "receiver",
        "result",
        "rpc_name",
        "runs_as_task",
        "transports",
        "verb",
        "ways",
    )

    def __init__(
        self,
        verb: Verb,
        path: str | None,
        *,
        transports: Transport = Transport.ALL,
        access: Access = Access.USER,
        rpc_name: str | None = None,
        is_remote: bool = False,
        is_wrapped: bool = True,
        runs_as_task: bool = False,
        receiver: Receiver | None = None,
        handler: Callable[..., Any],
        parameters: Parameters,
        doc: str,
        result: Any = None,
    ) -> None:
        self.verb, self.path, self.transports, self.access = verb, path, transports, access
        self.rpc_name, self.is_remote, self.is_wrapped = rpc_name, is_remote, is_wrapped
        self.runs_as_task, self.receiver = runs_as_task, receiver
        self.ways: int = transports.value
        self.handler, self.parameters, self.doc, self.result = handler, parameters, doc, result

    def __repr__(self) -> str:
        return f"<Endpoint {'|'.join(self.verb.names())} {self.path or self.rpc_name}>"


class Declaration:
    """What `@endpoint` leaves at a function: an Endpoint without its handler."""

    __slots__ = ("keywords", "path", "verb")

    def __init__(self, verb: Verb, path: str | None, keywords: dict[str, Any]) -> None:
        self.verb, self.path, self.keywords = verb, path, keywords

    def bind(self, owner: object, name: str, function: Callable[..., Any]) -> Endpoint:
        doc = inspect.getdoc(function)
        if not doc:
            raise TypeError(
                f"endpoint {self.path or self.keywords['rpc_name']} has no docstring: the API reference needs it"
            )
        keywords = dict(self.keywords)
        receiver = keywords.pop("receiver", None)
        return Endpoint(
            self.verb,
            self.path,
            receiver=None if receiver is None else getattr(owner, receiver),
            handler=getattr(owner, name),
            parameters=Parameters(function),
            doc=doc,
            result=get_type_hints(function, include_extras=True).get("return"),
            **keywords,
        )


def endpoint(
    verb: Verb,
    path: str,
    *,
    transports: Transport = Transport.ALL,
    access: Access = Access.USER,
    is_wrapped: bool = True,
    runs_as_task: bool = False,
    receiver: str | None = None,
) -> Callable[[F], F]:
    """Declare a method as the answer to `verb` on `path`, and to the JSON-RPC method that follows from the path.

    A path may end in variables, "/server/files/{root}/{path}", over HTTP only: the last one takes all that is left.
    `receiver` names the method that makes the sink of an upload.
    """
    keywords = {
        "transports": transports,
        "access": access,
        "is_wrapped": is_wrapped,
        "runs_as_task": runs_as_task,
        "receiver": receiver,
    }
    return _declare(Declaration(verb, path, keywords))


def rpc_method(
    name: str, *, transports: Transport = Transport.CONNECTIONS, access: Access = Access.USER
) -> Callable[[F], F]:
    """Declare a method that is about the connection itself, and so has no path."""
    return _declare(Declaration(Verb.POST, None, {"rpc_name": name, "transports": transports, "access": access}))


def _declare(declaration: Declaration) -> Callable[[F], F]:
    def mark(function: F) -> F:
        function.__dict__.setdefault("__endpoints__", []).append(declaration)
        return function

    return mark


def declared(owner: object) -> list[Endpoint]:
    """All endpoints declared in the class of an object, bound to it."""
    found = []
    for kind in reversed(type(owner).__mro__):
        for name, function in vars(kind).items():
            for declaration in getattr(function, "__endpoints__", ()):
                found.append(declaration.bind(owner, name, function))
    return found


class Notification:
    """One message that the server sends by itself. `payload` is the type of its one parameter, None without."""

    __slots__ = ("doc", "method", "payload")

    def __init__(self, name: str, payload: Any, doc: str) -> None:
        self.method, self.payload, self.doc = f"notify_{name}", payload, doc


ALL_NOTIFICATIONS: dict[str, Notification] = {}
"""Every declared notification by its method, for the reference; nothing at run time depends on it."""


def notification(name: str, payload: Any, doc: str) -> Notification:
    """Declare a notification; `name` is without "notify_"."""
    found = ALL_NOTIFICATIONS[f"notify_{name}"] = Notification(name, payload, doc)
    return found
