"""Which config section belongs to which component, and in what order components start.

The tables hold import paths: a component that is not configured is never imported. Order comes from the types in the
constructors. A component that cannot be built or started is listed in `failed` with its reason; the others go on.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from moonfast.component import Component, Emit
from moonfast.config.load import Config
from moonfast.config.options import Section
from moonfast.errors import MoonfastError, StartError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 1.0  # for each; the whole server has to stop within two seconds


class Entry(NamedTuple):
    """One component. `name` is its config section (or the prefix of its sections) and its name towards clients."""

    name: str
    path: str  # "module:Class"
    always: bool = False  # runs without a section too


COMPONENTS: tuple[Entry, ...] = (
    Entry("database", "moonfast.components.database:DatabaseApi", always=True),
    Entry("ldap", "moonfast.components.ldap:Ldap"),
    Entry("authorization", "moonfast.components.authorization:Authorization", always=True),
    Entry("machine", "moonfast.components.machine.component:Machine", always=True),
    Entry("file_manager", "moonfast.files.manager:FileManager", always=True),
    Entry("job_queue", "moonfast.components.job_queue:JobQueue", always=True),
    Entry("webcam", "moonfast.components.webcam:Webcams", always=True),
    Entry("announcements", "moonfast.components.announcements:Announcements", always=True),
    Entry("history", "moonfast.components.history:History", always=True),
    Entry("mqtt", "moonfast.components.mqtt:Mqtt"),
    Entry("power", "moonfast.components.power.component:Power"),
    Entry("sensor", "moonfast.components.sensor:Sensors"),
    Entry("wled", "moonfast.components.wled:Wled"),
    Entry("button", "moonfast.components.button:Buttons"),
    Entry("spoolman", "moonfast.components.spoolman.component:Spoolman"),
    Entry("notifier", "moonfast.components.notifier:Notifiers"),
    Entry("octoprint_compat", "moonfast.components.octoprint_compat:OctoprintCompat"),
    Entry("zeroconf", "moonfast.components.zeroconf.discovery:Discovery"),
)

# Sections of the built-in parts: for the generated reference.
SECTIONS: tuple[str, ...] = (
    "moonfast.config.sections:ServerConfig",
    "moonfast.config.sections:AuthorizationConfig",
    "moonfast.config.sections:DataStoreConfig",
    "moonfast.config.sections:SecretsConfig",
)

T = TypeVar("T")
C = TypeVar("C", bound=Component)


def load(path: str) -> Any:
    """Import what "module:Class" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class Need(NamedTuple):
    """One parameter of a constructor."""

    parameter: str
    type: Any
    is_list: bool
    is_optional: bool

    @property
    def is_section(self) -> bool:
        return isinstance(self.type, type) and issubclass(self.type, Section)


def needs(kind: type[Component]) -> list[Need]:
    """What the constructor of a component asks for, in order."""
    hints = get_type_hints(kind.__init__)
    hints.pop("return", None)
    found = []
    for parameter, hint in hints.items():
        is_optional = type(None) in get_args(hint)
        if is_optional:
            hint = functools.reduce(operator.or_, (item for item in get_args(hint) if item is not type(None)))
        is_list = get_origin(hint) is list
        found.append(Need(parameter, get_args(hint)[0] if is_list else hint, is_list, is_optional))
    return found


def sections_of(entry: Entry) -> list[type[Section]]:
    """The sections that a component reads. ImportError: it needs a package that is not installed."""
    kind = load(entry.path)
    found = [need.type for need in needs(kind) if need.is_section]
    return found + [load(path) for path in kind.section_types.values()]


def missing_package(error: ImportError) -> str:
    """Why a component cannot be loaded, in words for users."""
    return f"needs {(error.name or 'a package').partition('.')[0]}, which is not installed"


def section_classes(table: Iterable[Entry] | None = None) -> list[type[Section]]:
    """Every declared section: those of the built-in parts, then those of all components, which are imported for it."""
    found: dict[type[Section], None] = {load(path): None for path in SECTIONS}
    for entry in COMPONENTS if table is None else table:
        found.update(dict.fromkeys(sections_of(entry)))
    return list(found)


class Components:
    """The components of one server."""

    def __init__(self, config: Config, emit: Emit, table: Iterable[Entry] | None = None) -> None:
        self._config, self._emit = config, emit
        self._table = {entry.name: entry for entry in (COMPONENTS if table is None else table)}
        self._built: dict[str, Component] = {}  # in start order
        self._started: list[str] = []
        self.failed: dict[str, str] = {}  # name -> reason, in words for users

    def build(self, parts: Mapping[type, object]) -> None:
        """Construct what is configured. `parts` are the built-in things that constructors may ask for, by type.

        StartError: the constructors of two components ask for each other.
        """
        kinds: dict[str, type[Component]] = {}
        for name, entry in self._table.items():
            if entry.always or name in self._config:
                try:
                    kinds[name] = load(entry.path)
                except ImportError as exc:
                    self._fail(name, missing_package(exc), exc)
        by_type = {kind: name for name, kind in kinds.items()}
        for name in _in_order(kinds, by_type):
            try:
                arguments = {need.parameter: self._supply(need, parts, by_type) for need in needs(kinds[name])}
                component = kinds[name](**arguments)
            except MoonfastError as exc:
                self._fail(name, str(exc))
            except Exception as exc:  # component edge: a bug in one must not take the server down
                self._fail(name, f"failed to load ({type(exc).__name__}): the log has the details", exc)
            else:
                component.connect(self._emit)
                self._built[name] = component

    async def start(self) -> None:
        """Start them one after another, each after what it needs."""
        for name, component in self._built.items():
            broken = [other for other in self._needed_by(component) if other in self.failed]
            try:
                if broken:
                    raise StartError(f"needs [{broken[0]}], which failed")
                async with asyncio.timeout(START_TIMEOUT_S):
                    await component.start()
            except Exception as exc:  # component edge
                if isinstance(exc, MoonfastError):
                    self._fail(name, str(exc))
                elif isinstance(exc, TimeoutError):
                    self._fail(name, f"did not start within {START_TIMEOUT_S:g} s", exc)
                else:
                    self._fail(name, f"failed to start ({type(exc).__name__}): the log has the details", exc)
                await component.cancel_tasks()
            else:
                self._started.append(name)

    async def stop(self) -> None:
        """Stop what was started, the last one first."""
        while self._started:
            name = self._started.pop()
            component = self._built[name]
            for step in (component.cancel_tasks, component.stop):  # a task that will not end does not spare the second
                try:
                    async with asyncio.timeout(STOP_TIMEOUT_S / 2):
                        await step()
                except Exception:  # component edge
                    log.exception("Component %s did not stop cleanly", name)

    def running(self) -> dict[str, Component]:
        """What has been started, by name, in the order of start."""
        return {name: self._built[name] for name in self._started}

    def built(self) -> dict[str, Component]:
        """What has been constructed and has not failed, by name: endpoints are collected from these."""
        return {name: component for name, component in self._built.items() if name not in self.failed}

    def find(self, kind: type[C]) -> C | None:
        """The component of a class, None if it is not configured or could not be built."""
        return next((item for item in self._built.values() if isinstance(item, kind)), None)

    def names(self) -> list[str]:
        """Sections that have an owner here, whether it runs or not; for `Config.all_warnings`."""
        return list(self._table)

    def _supply(self, need: Need, parts: Mapping[type, object], by_type: Mapping[Any, str]) -> Any:
        if need.is_section:
            return self._config.sections(need.type) if need.is_list else self._config.section(need.type)
        if need.type in parts:
            return parts[need.type]
        name = by_type.get(need.type)
        if name in self._built:
            return self._built[name]
        if need.is_optional:
            return None
        if name is not None:
            raise StartError(f"needs [{name}], which failed")
        owner = next((entry.name for entry in self._table.values() if entry.path == _path(need.type)), None)
        if owner is None:
            raise TypeError(f"nothing provides '{need.parameter}' of type {need.type}")
        raise StartError(f"needs section [{owner}]: add it to the configuration")

    def _needed_by(self, component: Component) -> list[str]:
        names = {type(other): name for name, other in self._built.items()}
        return [names[need.type] for need in needs(type(component)) if need.type in names and not need.is_optional]

    def _fail(self, name: str, reason: str, error: BaseException | None = None) -> None:
        self.failed[name] = reason
        log.error("Component %s failed: %s", name, reason, exc_info=error)


def _path(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', '')}"


def _in_order(kinds: Mapping[str, type[Component]], by_type: Mapping[Any, str]) -> list[str]:
    """Names so that each comes after what it needs; otherwise the order of the table. StartError on a cycle."""
    order: dict[str, None] = {}
    open_: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in open_:
            raise StartError(f"components [{open_[-1]}] and [{name}] need each other: one of them has to do without")
        open_.append(name)
        for need in needs(kinds[name]):
            if need.type in by_type:
                visit(by_type[need.type])
        open_.pop()
        order[name] = None

    for name in kinds:
        visit(name)
    return list(order)
