"""What a client says about itself on a lasting connection, and the agents among them.

Source: specification, "Identify Connection", "Get Websocket ID" and "Extension APIs".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict

from moonfast.access.gate import Gate
from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification, rpc_method
from moonfast.api.later import Later
from moonfast.errors import BadRequest, Unauthorized
from moonfast.transports.connection import Connection, Identity
from moonfast.transports.hub import Hub
from moonfast.vocab import GET, POST, Access

CLIENT_TYPES = ("web", "mobile", "desktop", "display", "bot", "agent", "other")
RESERVED_EVENTS = ("connected", "disconnected")
MAX_REMOTE_METHODS = 200

RemoteMethod = Callable[[dict[str, Any]], None]


class ConnectionId(TypedDict):
    connection_id: int


class WebsocketId(TypedDict):
    websocket_id: int


class AgentInfo(TypedDict):
    name: str
    version: str
    type: str
    url: str


class AgentList(TypedDict):
    agents: list[AgentInfo]


class AgentEvent(TypedDict, total=False):
    agent: str
    event: str
    data: Any


AGENT_EVENT = notification(
    "agent_event", AgentEvent, "An agent connected, disconnected, or sent an event. The agent itself does not get it."
)


class ConnectionApi:
    """Endpoints about connections. `register_method` and `remove_method` tell Klippy's side about remote methods."""

    def __init__(
        self,
        hub: Hub,
        gate: Gate,
        register_method: Callable[[str, RemoteMethod], None],
        remove_method: Callable[[str], None],
    ) -> None:
        self._hub, self._gate = hub, gate
        self._register_method, self._remove_method = register_method, remove_method
        self._agents: dict[str, Connection] = {}
        hub.on_closed.append(self._closed)

    @rpc_method("server.websocket.id")
    def websocket_id(self, call: Call) -> WebsocketId:
        """Return the id of this connection. Deprecated: `server.connection.identify` returns it, too."""
        return {"websocket_id": self._connection(call).uid}

    @rpc_method("server.connection.identify", access=Access.OPEN)
    def identify(
        self,
        call: Call,
        client_name: str,
        version: str,
        type: str,
        url: str,
        access_token: str | None = None,
        api_key: str | None = None,
    ) -> ConnectionId:
        """Tell the server who the client is; once for each connection.

        `type` is one of web, mobile, desktop, display, bot, agent, other. An agent can register remote methods and send
        events; its `client_name` must be unique. With an `access_token` or `api_key` the connection is that of this
        user from then on; an empty one is none. Error 400: the connection has identified itself before, or the type is
        unknown, or an agent of this name is connected; 401: the credential is not valid.
        """
        connection = self._connection(call)
        self._admit(call, (access_token or "").strip(), (api_key or "").strip())
        if not call.is_authorized:
            raise call.refused()
        if connection.identity is not None:
            raise BadRequest(f"Connection already identified: {connection.identity.name}")
        if type not in CLIENT_TYPES:
            raise BadRequest(f"Invalid Client Type: {type}. Use one of {', '.join(CLIENT_TYPES)}")
        identity = Identity(client_name, version, type, url)
        if type == "agent":
            if client_name in self._agents:
                raise BadRequest(f"Agent '{client_name}' already registered and connected")
            self._agents[client_name] = connection
        connection.identity = identity
        if type == "agent":
            self._event(connection, "connected", _described(identity))
        return {"connection_id": connection.uid}

    def _admit(self, call: Call, token: str, key: str) -> None:
        if not token and not key:
            return
        try:
            proof = self._gate.by_token(token) if token else self._gate.by_key(key)
        except Unauthorized:
            self._gate.expel(call)
            raise
        self._gate.admit(call, proof)

    @rpc_method("connection.register_remote_method")
    def register_remote_method(self, call: Call, method_name: str) -> Literal["ok"]:
        """Let gcode macros call this agent: `action_call_remote_method("method_name", ...)` arrives as a notification.

        Error 400: the connection is no agent, or another one has registered the name.
        """
        connection = self._agent(call, "register methods")
        if method_name not in connection.remote_methods:
            if len(connection.remote_methods) >= MAX_REMOTE_METHODS:
                raise BadRequest(f"An agent can register {MAX_REMOTE_METHODS} methods: this one has as many")
            self._register_method(method_name, lambda params: connection.notify(method_name, params or None))
            connection.remote_methods.add(method_name)
        return "ok"

    @rpc_method("connection.send_event")
    def send_event(self, call: Call, event: str, data: Any = None) -> Literal["ok"]:
        """Send `notify_agent_event` to all other connections.

        Error 400: the connection is no agent, or the event is "connected" or "disconnected", which the server sends.
        """
        connection = self._agent(call, "send events")
        if event in RESERVED_EVENTS:
            raise BadRequest(f"Event '{event}' is reserved: choose another name")
        self._event(connection, event, data)
        return "ok"

    @endpoint(GET, "/server/extensions/list")
    def list_agents(self, call: Call) -> AgentList:
        """Return the agents that are connected."""
        return {"agents": [_described(item.identity) for item in self._agents.values() if item.identity is not None]}

    @endpoint(POST, "/server/extensions/request")
    def request_agent(self, call: Call, agent: str, method: str, arguments: Any = None) -> Later:
        """Call a method of an agent and return its result.

        `arguments` is an object or an array. Error 400: there is no such agent; 424: the agent answered with an error,
        which is in `error.data`; 503: the agent went away.
        """
        connection = self._agents.get(agent)
        if connection is None:
            raise BadRequest(f"Agent {agent} not connected")
        if arguments is not None and not isinstance(arguments, dict | list):
            raise BadRequest("The 'arguments' field must contain an object or a list")
        return connection.request(method, arguments)

    def _connection(self, call: Call) -> Connection:
        connection = self._hub.find(call.connection.uid) if call.connection is not None else None
        if connection is None:
            raise BadRequest("This request needs a lasting connection: use the WebSocket or the Unix socket")
        return connection

    def _agent(self, call: Call, what: str) -> Connection:
        connection = self._connection(call)
        if connection.identity is None or connection.identity.type != "agent":
            raise BadRequest(f"Only connections of the 'agent' type can {what}: identify as one first")
        return connection

    def _event(self, agent: Connection, event: str, data: Any) -> None:
        assert agent.identity is not None
        payload: AgentEvent = {"agent": agent.identity.name, "event": event}
        if data is not None:
            payload["data"] = data
        self._hub.emit_except(agent, AGENT_EVENT, payload)

    def _closed(self, connection: Connection) -> None:
        for name in connection.remote_methods:
            self._remove_method(name)
        connection.remote_methods.clear()
        identity = connection.identity
        if identity is not None and self._agents.get(identity.name) is connection:
            del self._agents[identity.name]
            self._event(connection, "disconnected", None)


def _described(identity: Identity) -> AgentInfo:
    return {"name": identity.name, "version": identity.version, "type": identity.type, "url": identity.url}
