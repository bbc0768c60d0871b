"""Words that several parts of the server share, so that they need not import one another."""

from __future__ import annotations

import enum


class KlippyState(enum.StrEnum):
    """State of the printer host as clients see it in `server.info` (specification: "Query Server Info")."""

    DISCONNECTED = "disconnected"
    STARTUP = "startup"
    READY = "ready"
    ERROR = "error"
    SHUTDOWN = "shutdown"


class JobState(enum.StrEnum):
    """`print_stats.state` of Klipper (docs/Status_Reference.md, "print_stats")."""

    STANDBY = "standby"
    PRINTING = "printing"
    PAUSED = "paused"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"


class Verb(enum.Flag):
    GET = 1
    POST = 2
    DELETE = 4

    def names(self) -> tuple[str, ...]:
        return tuple(verb.name for verb in Verb if verb in self and verb.name)


class Transport(enum.Flag):
    """Ways by which a request can reach an endpoint."""

    HTTP = 1
    WEBSOCKET = 2
    UNIX = 4
    MQTT = 8
    INTERNAL = 16
    ALL = 31
    CONNECTIONS = 6  # those on which notifications arrive


class Access(enum.Enum):
    """What a caller must be to use an endpoint."""

    OPEN = "open"  # anyone: logging in, asking whether a login is needed
    USER = "user"  # a trusted address or a logged-in user


GET, POST, DELETE = Verb.GET, Verb.POST, Verb.DELETE
