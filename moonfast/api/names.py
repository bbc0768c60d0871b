"""How a path becomes JSON-RPC methods, and back.

`/server/files/list` is `server.files.list`. Where a path is declared more than once, for different verbs, the verb goes
before the last word: `/server/database/item` is `server.database.get_item`, `post_item` and `delete_item`.
Source: specification, "JSON-RPC API Overview" and the examples of each endpoint.
"""

from __future__ import annotations

from moonfast.vocab import Verb


def method_name(path: str, verb: Verb, is_shared: bool) -> str:
    """The JSON-RPC name of a path. `is_shared`: the path has several declarations."""
    head, _, last = path.strip("/").replace("/", ".").rpartition(".")
    if is_shared:
        last = f"{verb.names()[0].lower()}_{last}"
    return f"{head}.{last}" if head else last


def candidate_paths(method: str) -> list[tuple[str, Verb | None]]:
    """The paths a method can stand for: its own, and, if its last word begins with a verb, that without it."""
    head, _, last = method.rpartition(".")
    base = "/" + head.replace(".", "/") + ("/" if head else "")
    found: list[tuple[str, Verb | None]] = [(base + last, None)]
    word, _, rest = last.partition("_")
    if rest and word in ("get", "post", "delete"):
        found.append((base + rest, Verb[word.upper()]))
    return found
