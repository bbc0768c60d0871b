"""All endpoints of one server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moonfast.api.endpoint import Endpoint, declared
from moonfast.api.names import method_name
from moonfast.vocab import Transport, Verb


class EndpointTable:
    """Finds an endpoint by path and verb, or by JSON-RPC method.

    `collect` the owners, then `complete()`: the JSON-RPC names depend on all declarations of a path.
    """

    def __init__(self) -> None:
        self._declared: list[Endpoint] = []
        self._by_path: dict[str, dict[str, Endpoint]] = {}  # path -> HTTP method -> endpoint
        self._by_method: dict[str, Endpoint] = {}
        self._remote: list[Endpoint] = []
        self._templates: dict[str, tuple[str, ...]] = {}  # path with variables -> what is before them, their names

    def collect(self, owner: object) -> None:
        """Take over the endpoints that an object declares."""
        self._declared += declared(owner)

    def complete(self) -> None:
        """Give every endpoint its JSON-RPC name and make it findable. ValueError: two endpoints claim the same."""
        shared: dict[str, int] = {}
        for item in self._declared:
            if item.path is not None:
                shared[item.path] = shared.get(item.path, 0) + 1
        for item in self._declared:
            if item.path is not None and item.transports & ~Transport.HTTP:
                item.rpc_name = method_name(item.path, item.verb, shared[item.path] > 1)
            self._enter(item)

    def _enter(self, item: Endpoint) -> None:
        if item.path is not None and item.transports & Transport.HTTP:
            verbs = self._by_path.setdefault(item.path, {})
            if "{" in item.path:
                prefix, _, names = item.path.partition("{")
                self._templates[item.path] = (prefix, *names.rstrip("}").split("}/{"))
            for verb in item.verb.names():
                if verb in verbs:
                    raise ValueError(f"{verb} {item.path} is declared twice")
                verbs[verb] = item
        if item.rpc_name is not None:
            if item.rpc_name in self._by_method:
                raise ValueError(f"JSON-RPC method {item.rpc_name} is declared twice")
            self._by_method[item.rpc_name] = item

    def by_path(self, path: str) -> dict[str, Endpoint] | None:
        """HTTP method -> endpoint, None if there is no such path."""
        return self._by_path.get(path)

    def by_template(self, path: str) -> tuple[dict[str, Endpoint], dict[str, str]] | None:
        """The same for a path, as it was sent, that fits one with variables; and the variables, as they were sent."""
        for template, (prefix, *names) in self._templates.items():
            if path.startswith(prefix):
                parts = path[len(prefix) :].split("/", len(names) - 1)
                if len(parts) == len(names) and all(parts):
                    return self._by_path[template], dict(zip(names, parts, strict=True))
        return None

    def by_method(self, method: str) -> Endpoint | None:
        return self._by_method.get(method)

    def __iter__(self) -> Iterator[Endpoint]:
        yield from self._declared
        yield from self._remote

    def has_path(self, path: str) -> bool:
        return path in self._by_path

    def add_remote(self, items: Iterable[Endpoint]) -> None:
        """Add what Klippy offers; an endpoint that is here already is left as it is."""
        for item in items:
            assert item.path is not None
            if item.path not in self._by_path:
                item.rpc_name = method_name(item.path, item.verb, False)
                self._enter(item)
                self._remote.append(item)

    def remove_remote(self) -> None:
        """Forget what Klippy offered."""
        for item in self._remote:
            assert item.path is not None
            assert item.rpc_name is not None
            del self._by_path[item.path], self._by_method[item.rpc_name]
        self._remote.clear()


def allowed(verbs: dict[str, Endpoint]) -> tuple[str, ...]:
    """The HTTP methods that a path answers, for the Allow header."""
    found = list(verbs)
    if Verb.GET.name in verbs:
        found.append("HEAD")
    return (*found, "OPTIONS")
