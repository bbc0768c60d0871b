"""The folders that clients know as "roots", and how a client's path becomes a path of the file system.

A client names a file "root/folder/name". The rules, which hold for every operation:

- ".." never leads anywhere, an absolute path or a NUL is refused; empty parts and "." do not count.
- What is compared are whole components of the resolved path, links followed.
- A link inside of a root may lead to another place of this root, to another root, to removable media, or to a visible
  place in the user's home (`mainsail.cfg` is such a link on many printers). Anywhere else it is refused.
- Reserved paths are refused wherever they lie: some may be read (program folders), the others not (keys, database).
- `.git` folders are shown but never entered.

Source: specification, "File Operations".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from moonfast.errors import BadRequest, Forbidden, MethodNotAllowed

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MEDIA_FOLDERS = ("/media", "/mnt", "/run/media")
"""Where links may lead besides the roots and the user's home: sticks and network drives."""
PART_PREFIX, PART_SUFFIX = ".moonfast-", ".part"
"""Names of files that are not whole yet: never shown, removed at the next start."""
READ, WRITE = False, True


class Root:
    """One root. `path` may change: Klipper's folders move when another Klipper connects."""

    __slots__ = ("is_writable", "name", "path", "real")

    def __init__(self, name: str, path: str, is_writable: bool) -> None:
        self.name, self.is_writable = name, is_writable
        self.path = path
        self.real = os.path.realpath(path)

    @property
    def permissions(self) -> str:
        return "rw" if self.is_writable else "r"


class Location(NamedTuple):
    """A place inside of a root. `path` is where it lies; `real` the same with all links followed."""

    root: Root
    relative: str  # "" for the root itself, no slash at either end
    path: str
    real: str

    @property
    def name(self) -> str:
        """As clients write it: with the root in front."""
        return f"{self.root.name}/{self.relative}" if self.relative else self.root.name

    @property
    def folder(self) -> str:
        """Path of the folder that it lies in."""
        return os.path.dirname(self.path)


class Roots:
    """All roots of one server. `on_update(root)` is called when one is new or has moved."""

    def __init__(self, home: str | None = None) -> None:
        self._roots: dict[str, Root] = {}
        self._reserved: dict[str, tuple[str, str, bool]] = {}  # name -> (path as named, resolved path, readable)
        home = os.path.realpath(home or os.path.expanduser("~"))
        self._home = home if home != "/" else None
        self.on_update: Callable[[Root], None] = lambda root: None

    def add(self, name: str, path: str, is_writable: bool = False) -> Root:
        """Register a root, or move one."""
        known = self._roots.get(name)
        if known is not None and known.path == path and known.is_writable == is_writable:
            return known
        root = self._roots[name] = Root(name, path, is_writable)
        self.on_update(root)
        return root

    def reserve(self, name: str, path: str, is_readable: bool = False) -> None:
        """Keep clients away from a path and all below it; `name` says in the refusal what it is."""
        self._reserved[name] = (path, os.path.realpath(path), is_readable)

    def names(self) -> list[str]:
        return list(self._roots)

    def get(self, name: str) -> Root | None:
        return self._roots.get(name)

    def all(self) -> list[Root]:
        return list(self._roots.values())

    def locate(self, path: str, access: bool = READ) -> Location:
        """Find what a client's "root/folder/name" means. ApiError (400, 403, 405): it may not be used."""
        parts = split(path)
        root = self._roots.get(parts[0]) if parts else None
        if root is None:
            raise BadRequest(f"Invalid root path ({_shown(parts[0] if parts else path)}): use one of {self._choices()}")
        return self.inside(root, parts[1:], access)

    def inside(self, root: Root, parts: list[str], access: bool = READ) -> Location:
        """The same for the parts of a path inside of a root."""
        if ".." in parts:
            raise self._refuse_dots(root, parts)
        relative = "/".join(parts)
        if len(os.fsencode(relative)) > MAX_PATH_BYTES or any(
            len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts
        ):
            raise BadRequest(f"The name is too long: at most {MAX_NAME_BYTES} bytes for each part of a path")
        path = f"{root.path}/{relative}" if relative else root.path
        real = os.path.realpath(path)
        location = Location(root, relative, path, real)
        self._check(location, access)
        return location

    def permissions(self, root: Root, path: str) -> str:
        """What may be done with one path: "rw", "r" or ""; `path` has its links followed."""
        if path.endswith("/.git") or "/.git/" in path:
            return ""
        for _, reserved, is_readable in self._reserved.values():
            if is_below(path, reserved):
                return "r" if is_readable else ""
        if not self._may_lead_to(root, path):
            return ""
        return root.permissions

    def _check(self, location: Location, access: bool) -> None:
        real = location.real
        parts = location.relative.split("/")
        if ".git" in parts or "/.git/" in real or real.endswith("/.git"):
            raise Forbidden("Access to .git folders is forbidden")
        for name, (named, reserved, is_readable) in self._reserved.items():
            if is_below(real, reserved) or is_below(location.path, named):
                if access is WRITE or not is_readable:
                    raise Forbidden(
                        f"Access to '{location.name}' is forbidden: it belongs to the reserved path '{name}'"
                    )
                return
        if not self._may_lead_to(location.root, real):
            raise Forbidden(
                f"'{location.name}' leads out of the root '{location.root.name}': links may lead to other roots, to "
                "removable media or into the home folder"
            )

    def _may_lead_to(self, root: Root, real: str) -> bool:
        if is_below(real, root.real) or any(is_below(real, other.real) for other in self._roots.values()):
            return True
        if any(is_below(real, folder) for folder in MEDIA_FOLDERS):
            return True
        if self._home is None or not is_below(real, self._home):
            return False
        return not any(part.startswith(".") for part in real[len(self._home) :].split("/"))

    def _refuse_dots(self, root: Root, parts: list[str]) -> Exception:
        """A path with "..": what it says to the client depends on where it would have led, as in Moonraker."""
        lexical = os.path.normpath("/".join((root.name, *parts)))
        first = lexical.split("/")[0]
        if first != root.name and first in self._roots:
            return MethodNotAllowed(("GET", "HEAD"))
        if first != root.name:
            return BadRequest(f"Invalid root path ({_shown(first)}): use one of {self._choices()}")
        return BadRequest("Invalid path: it must not contain '..'")

    def _choices(self) -> str:
        return ", ".join(f"'{name}'" for name in self._roots)


def split(path: str) -> list[str]:
    """The parts of a client's path. BadRequest: it holds a character that no name can have."""
    if "\0" in path:
        raise BadRequest("Invalid path: it holds a NUL character")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest("Invalid path: it is not text") from None
    return [part for part in path.split("/") if part not in ("", ".")]


def is_below(path: str, folder: str) -> bool:
    """Whether a resolved path is a folder or lies in it: "/a/bc" is not below "/a/b"."""
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def is_part(name: str) -> bool:
    """Whether a name belongs to a file that is not whole yet."""
    return name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "..."
