"""The connection to an MQTT broker: the API, the printer's status, and topics for other parts of the server.

    paho-mqtt does the protocol; its socket is watched by the loop:  broker <-> socket <-> loop <-> paho -> callbacks

Connecting may take long (names, TLS), so a thread does it. While there is no broker the server tries again, less and
less often; messages with QoS 1 or 2 wait for it, up to MAX_QUEUED, and others are dropped.
Sources: web_api.md, "MQTT APIs"; Moonraker's documentation, "[mqtt]".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.api.subscriber import Filter
from moonfast.codec import DecodeError, decode, encode
from moonfast.component import Component
from moonfast.config.options import Option, Path, Section, Template
from moonfast.errors import BadRequest, ConfigError, GatewayTimeout, Unavailable
from moonfast.host.templates import Templates
from moonfast.klippy.session import Klippy
from moonfast.rpc.jsonrpc import JsonRpc
from moonfast.state.status import Status
from moonfast.vocab import POST, KlippyState, Transport

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
MAX_QUEUED = 500
"""Messages with QoS 1 or 2 that wait for the broker; later ones are refused."""
MAX_IN_FLIGHT = 20
MAX_REQUEST_BYTES = 1024 * 1024
MAX_REQUESTS = 100
"""Requests to the API that are worked on at once; more are dropped."""
MAX_TIMESTAMPS = 200
"""Requests by whose `mqtt_timestamp` a second copy is recognised."""
GOODBYE_S = 0.3
NOT_OVER_MQTT = ~Transport.MQTT


class MqttConfig(Section, name="mqtt"):
    address: Annotated[str, Option(doc="Name or address of the broker.")]
    port: Annotated[int, Option(minimum=1, maximum=65535, doc="Its port.")] = 1883
    client_id: Annotated[str | None, Option(doc="How the broker knows this client; one that it has not chosen.")] = None
    username: Annotated[Template | None, Option(doc="For a broker with logins.")] = None
    password: Annotated[Template | None, Option(doc="For a broker with logins.")] = None
    password_file: Annotated[
        Path | None, Option(doc="File with the password.", deprecated="use 'password: {secrets.mqtt.password}'.")
    ] = None
    enable_tls: Annotated[bool, Option(doc="Connect with TLS; the certificate of the broker is checked.")] = False
    mqtt_protocol: Annotated[Literal["v3.1", "v3.1.1", "v5"], Option(doc="Version of the protocol.")] = "v3.1.1"
    enable_moonraker_api: Annotated[bool, Option(doc="Answer requests to the API over MQTT.")] = True
    instance_name: Annotated[str | None, Option(doc="First part of all topics. Without it: the host's name.")] = None
    status_objects: Annotated[
        list[str], Option(doc="Printer objects to publish: `NAME` for all of one, or `NAME=FIELD,FIELD`.")
    ] = []
    status_interval: Annotated[
        float, Option(minimum=0.0, unit="s", doc="Publish changes of the status as often. 0: as they come.")
    ] = 0.0
    publish_split_status: Annotated[bool, Option(doc="Publish each field to a topic of its own.")] = False
    default_qos: Annotated[int, Option(minimum=0, maximum=2, doc="Quality of service of what is sent.")] = 0
    api_qos: Annotated[
        int | None, Option(minimum=0, maximum=2, doc="The same of requests and answers. Without it: default_qos.")
    ] = None


class Published(TypedDict):
    topic: str


class Message(TypedDict):
    topic: str
    payload: Any


Receiver = Callable[[bytes], None]


class Mqtt(Component):
    """One broker. `on_connection` is told when it is there, and when it is gone."""

    def __init__(self, config: MqttConfig, klippy: Klippy, status: Status, rpc: JsonRpc, templates: Templates) -> None:
        self._config, self._klippy, self._status, self._rpc = config, klippy, status, rpc
        self._login = [templates.compile(item) if item else None for item in (config.username, config.password)]
        self._objects = _filter(config)
        self.instance_name = config.instance_name or socket.gethostname().split(".")[0]
        if not self.instance_name or any(sign in self.instance_name for sign in "+#"):
            raise ConfigError(
                f"'{self.instance_name}' cannot be part of a topic.",
                section="mqtt",
                option="instance_name",
                remedy="Choose a name without + and #.",
            )
        self.is_connected = self._is_stopping = False
        self.on_connection: list[Callable[[bool], None]] = []
        self._client: Client | None = None
        self._receivers: dict[str, list[Receiver]] = {}
        self._qos: dict[str, int] = {}
        self._waiting: dict[int, asyncio.Future[None]] = {}  # message id -> it has arrived at the broker
        self._lost = asyncio.Event()
        self._refusal = ""  # why the broker does not accept the login
        self._requests = 0
        self._timestamps: deque[Any] = deque(maxlen=MAX_TIMESTAMPS)
        self._merged: dict[str, dict[str, Any]] = {}  # status that waits for its interval
        self._eventtime = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._client = await self._make_client()
        if self._config.enable_moonraker_api:
            self.subscribe(f"{self.instance_name}/moonraker/api/request", self._request, self._api_qos)
        if self._objects:
            self._klippy.want_also(self._objects)
            self._status.follow(self._objects, self._status_changed)
            self._klippy.on_state.append(self._follow_klippy)
        self._klippy.methods.register("publish_mqtt_topic", self._called_by_macro)
        self.spawn(self._stay_connected())

    async def stop(self) -> None:
        self._is_stopping = True
        self._klippy.methods.remove("publish_mqtt_topic")
        if self._objects:
            self._klippy.on_state.remove(self._follow_klippy)
        if self._timer is not None:
            self._timer.cancel()
        if self._client is not None and self.is_connected:
            with contextlib.suppress(Unavailable, TimeoutError):
                await asyncio.wait_for(
                    self.publish(self._status_topic, {"server": "offline"}, qos=1, retain=True), GOODBYE_S
                )
            self._client.disconnect()
            self._client.loop_write()
        self._let_go()
        if self._client is not None:  # it calls them once more when it is deleted
            self._client.on_socket_close = self._client.on_socket_unregister_write = None
            self._client.on_disconnect = None

    # for other components

    def subscribe(self, topic: str, receiver: Receiver, qos: int | None = None) -> Callable[[], None]:
        """Have every message of a topic given to `receiver`, also after the connection was lost; returns how to end it.

        `+` and `#` are wildcards.
        """
        self._receivers.setdefault(topic, []).append(receiver)
        self._qos[topic] = max(self._qos.get(topic, 0), self._config.default_qos if qos is None else qos)
        if self.is_connected and self._client is not None:
            self._client.subscribe(topic, self._qos[topic])

        def end() -> None:
            receivers = self._receivers.get(topic, [])
            if receiver in receivers:
                receivers.remove(receiver)
            if not receivers and self._receivers.pop(topic, None) is not None:
                del self._qos[topic]
                if self.is_connected and self._client is not None:
                    self._client.unsubscribe(topic)

        return end

    async def publish(self, topic: str, payload: Any = None, *, qos: int | None = None, retain: bool = False) -> None:
        """Send a message. With QoS 1 and 2, wait until the broker has it, be it after it was gone for a while.

        Unavailable: there is no broker, or too many messages wait for it.
        """
        qos = self._config.default_qos if qos is None else qos
        if self._client is None or (qos == 0 and not self.is_connected):
            raise Unavailable("The MQTT broker is not connected: try again later")
        try:
            info = self._client.publish(topic, _text(payload), qos, retain)
        except ValueError as exc:
            raise BadRequest(f"Topic '{topic[:60]}' cannot be published: {exc}") from None
        if info.rc == _QUEUE_FULL:
            raise Unavailable(f"{MAX_QUEUED} messages wait for the MQTT broker already: try again later")
        if qos > 0:  # the broker's word for it comes by way of the loop, so never before this
            arrived = self._waiting[info.mid] = asyncio.get_running_loop().create_future()
            try:
                await arrived
            finally:
                self._waiting.pop(info.mid, None)

    # for clients

    @endpoint(POST, "/server/mqtt/publish", transports=NOT_OVER_MQTT, runs_as_task=True)
    async def publish_topic(
        self,
        call: Call,
        topic: str,
        payload: Any = None,
        qos: int | None = None,
        retain: bool = False,
        timeout: float | None = None,
    ) -> Published:
        """Publish a message. An empty payload with `retain` clears what the broker keeps.

        Error 503: the broker is not there; 504: with QoS 1 or 2, it did not take it in time. It goes out later.
        """
        _check(topic, qos, timeout)
        try:
            async with asyncio.timeout(timeout):
                await self.publish(topic, payload, qos=qos, retain=retain)
        except TimeoutError:
            raise GatewayTimeout("The MQTT broker did not take the message in time") from None
        return {"topic": topic}

    @endpoint(POST, "/server/mqtt/subscribe", transports=NOT_OVER_MQTT, runs_as_task=True)
    async def subscribe_topic(
        self, call: Call, topic: str, qos: int | None = None, timeout: float | None = None
    ) -> Message:
        """Wait for the next message of a topic, or get the one that the broker keeps. JSON is decoded.

        Error 504: none came within `timeout` seconds.
        """
        _check(topic, qos, timeout)
        if any(sign in topic for sign in "+#"):
            raise BadRequest("Wildcards may not be used: name one topic")
        came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        end = self.subscribe(topic, lambda payload: None if came.done() else came.set_result(payload), qos)
        try:
            async with asyncio.timeout(timeout):
                payload = await came
        except TimeoutError:
            raise GatewayTimeout(f"No message of '{topic}' in time") from None
        finally:
            end()
        return {"topic": topic, "payload": _decoded(payload)}

    # the connection

    async def _make_client(self) -> Client:
        from paho.mqtt.client import Client, MQTTv5, MQTTv31, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        config = self._config
        versions = {"v3.1": MQTTv31, "v3.1.1": MQTTv311, "v5": MQTTv5}
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=config.client_id or "", protocol=versions[config.mqtt_protocol]
        )
        username, password = [await item.render() if item else None for item in self._login]
        if password is None and config.password_file:
            password = await asyncio.to_thread(_first_line, config.password_file)
        if username is not None:
            client.username_pw_set(username, password)
        if config.enable_tls:
            client.tls_set_context(await asyncio.to_thread(ssl.create_default_context))
        client.max_queued_messages_set(MAX_QUEUED)
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        client.will_set(self._status_topic, encode({"server": "offline"}), config.default_qos, retain=True)
        self._loop = asyncio.get_running_loop()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_wants_to_write
        client.on_socket_unregister_write = self._on_has_written
        return client

    @property
    def _status_topic(self) -> str:
        return f"{self.instance_name}/moonraker/status"

    @property
    def _api_qos(self) -> int:
        return self._config.default_qos if self._config.api_qos is None else self._config.api_qos

    async def _stay_connected(self) -> None:
        pause, is_first = FIRST_RETRY_S, True
        while True:
            self._lost.clear()
            self._refusal = ""
            fault = await self._connect()
            if fault is None:
                if self.is_connected or await self._is_accepted():
                    pause, is_first = FIRST_RETRY_S, True
                    await self._serve()
                    continue
                fault = self._refusal or "it does not answer"
            log.log(
                logging.WARNING if is_first else logging.DEBUG,
                "The MQTT broker %s:%d cannot be reached: %s. Trying again.",
                self._config.address,
                self._config.port,
                fault,
            )
            is_first = False
            self._let_go()
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, LONGEST_RETRY_S)

    async def _connect(self) -> str | None:
        """Connect, in a thread; why it cannot be done."""
        assert self._client is not None
        try:
            await asyncio.to_thread(self._client.connect, self._config.address, self._config.port, KEEPALIVE_S)
        except (OSError, ValueError) as exc:
            return getattr(exc, "strerror", None) or str(exc)
        return None

    async def _is_accepted(self) -> bool:
        """Wait for the broker's answer to the login."""
        for _ in range(100):
            await asyncio.sleep(0.1)
            if self.is_connected or self._lost.is_set():
                return self.is_connected
        return False

    async def _serve(self) -> None:
        """Keep the connection alive until it is lost."""
        assert self._client is not None
        while not self._lost.is_set():
            self._client.loop_misc()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._lost.wait()

    # paho opens its socket in the thread that connects; everything else it does on the loop

    def _on_socket_open(self, client: Client, data: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch, sock)

    def _on_wants_to_write(self, client: Client, data: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch_writing, sock)

    def _on_has_written(self, client: Client, data: Any, sock: Any) -> None:
        if sock.fileno() >= 0:  # else the loop may be gone, too
            self._loop.call_soon_threadsafe(self._watch_writing, sock)

    def _on_socket_close(self, client: Client, data: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())

    def _watch(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _watch_writing(self, sock: Any) -> None:
        if sock.fileno() < 0 or self._client is None:
            return
        if self._client.want_write():
            self._loop.add_writer(sock.fileno(), self._client.loop_write)
        else:
            self._loop.remove_writer(sock.fileno())

    def _readable(self, sock: Any) -> None:
        assert self._client is not None
        self._client.loop_read()
        while isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0 and sock.pending():
            self._client.loop_read()

    def _let_go(self) -> None:
        client = self._client
        if client is not None and (sock := client.socket()) is not None:
            self._on_socket_close(client, None, sock)
            sock.close()

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refusal = f"it refuses the login ({reason}): check username and password"
            self._lost.set()
            return
        log.info("Connected to the MQTT broker %s:%d", self._config.address, self._config.port)
        self.is_connected = True
        for topic, qos in self._qos.items():
            client.subscribe(topic, qos)
        client.publish(self._status_topic, encode({"server": "online"}), self._config.default_qos, retain=True)
        self._publish_all()
        for listener in self.on_connection:
            listener(True)

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._lost.set()
        if self.is_connected:
            self.is_connected = False
            level = logging.DEBUG if self._is_stopping else logging.WARNING
            log.log(level, "The connection to the MQTT broker is lost: %s", reason)
            for listener in self.on_connection:
                listener(False)

    def _on_publish(self, client: Client, data: Any, mid: int, reason: Any, properties: Any) -> None:
        arrived = self._waiting.pop(mid, None)
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        from paho.mqtt.client import topic_matches_sub

        topic = message.topic
        for wanted, receivers in list(self._receivers.items()):
            if wanted == topic or (("+" in wanted or "#" in wanted) and topic_matches_sub(wanted, topic)):
                for receiver in list(receivers):
                    try:
                        receiver(bytes(message.payload))
                    except Exception:  # task edge: one receiver's bug must not cost the others the message
                        log.exception("A message of '%s' could not be dealt with", topic)

    # the API

    def _request(self, text: bytes) -> None:
        if len(text) > MAX_REQUEST_BYTES or self._requests >= MAX_REQUESTS:
            log.warning("A request over MQTT is dropped: it is too large, or too many are worked on")
            return
        if b"mqtt_timestamp" in text and self._is_copy(text):
            return
        self._requests += 1

        def reply(answer: bytes | None) -> None:
            self._requests -= 1
            if answer is not None and self._client is not None:
                self._client.publish(f"{self.instance_name}/moonraker/api/response", answer, self._api_qos)

        self._rpc.receive(text, Call(Transport.MQTT), reply)

    def _is_copy(self, text: bytes) -> bool:
        """Whether a request came before: with QoS 1 a broker may send it twice."""
        with contextlib.suppress(DecodeError):
            message = decode(text)
            params = message.get("params") if isinstance(message, dict) else None
            stamp = params.get("mqtt_timestamp") if isinstance(params, dict) else None
            if stamp is not None:
                if stamp in self._timestamps:
                    return True
                self._timestamps.append(stamp)
        return False

    def _called_by_macro(self, arguments: dict[str, Any]) -> None:
        """`publish_mqtt_topic` with `topic`, `payload`, `qos`, `retain` and `use_prefix`."""
        topic = str(arguments.get("topic", ""))
        if arguments.get("use_prefix"):
            topic = f"{self.instance_name}/{topic.lstrip('/')}"
        qos = arguments.get("qos")
        self.spawn(self._publish_quietly(topic, arguments.get("payload"), qos, bool(arguments.get("retain"))))

    async def _publish_quietly(self, topic: str, payload: Any, qos: Any, retain: bool) -> None:
        try:
            _check(topic, qos, None)
            await self.publish(topic, payload, qos=qos, retain=retain)
        except (BadRequest, Unavailable) as exc:
            log.warning("publish_mqtt_topic: %s", exc.message)

    # the status

    def _follow_klippy(self, state: KlippyState) -> None:
        if state is KlippyState.READY:
            self._publish_all()

    def _publish_all(self) -> None:
        """Publish everything, for those who do not know it yet."""
        if self._objects and self._klippy.is_connected:
            found = decode(self._status.values(self._objects))
            self._publish_status(
                {name: fields for name, fields in found["status"].items() if fields}, found["eventtime"]
            )

    def _status_changed(self, text: bytes) -> None:
        status, eventtime = decode(text)["params"]
        if not self._config.status_interval:
            self._publish_status(status, eventtime)
            return
        self._eventtime = eventtime
        for name, fields in status.items():
            self._merged.setdefault(name, {}).update(fields)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._config.status_interval, self._publish_merged)

    def _publish_merged(self) -> None:
        self._timer = None
        status, self._merged = self._merged, {}
        self._publish_status(status, self._eventtime)

    def _publish_status(self, status: dict[str, Any], eventtime: float) -> None:
        client, qos = self._client, self._config.default_qos
        if client is None or not self.is_connected or not status:
            return
        if not self._config.publish_split_status:
            payload = {"eventtime": eventtime, "status": status}
            client.publish(f"{self.instance_name}/klipper/status", encode(payload), qos)
            return
        for name, fields in status.items():
            for field, value in fields.items():
                topic = f"{self.instance_name}/klipper/state/{name}/{field}"
                client.publish(topic, encode({"eventtime": eventtime, "value": value}), qos, retain=True)


_QUEUE_FULL = 15  # paho's MQTT_ERR_QUEUE_SIZE


def _filter(config: MqttConfig) -> Filter:
    """`status_objects`, read."""
    found: Filter = {}
    for line in config.status_objects:
        name, is_part, fields = line.partition("=")
        names = [field.strip() for field in fields.split(",") if field.strip()]
        found[name.strip()] = names if is_part and names else None
    return found


def _check(topic: str, qos: Any, timeout: float | None) -> None:
    if qos is not None and (not isinstance(qos, int) or not 0 <= qos <= 2):
        raise BadRequest("QOS must be between 0 and 2")
    if not topic or "\0" in topic or len(topic.encode("utf-8", "replace")) > 65535:
        raise BadRequest("Argument 'topic' must be the name of a topic")
    if timeout is not None and timeout <= 0:
        raise BadRequest("Argument 'timeout' must be above 0")


def _text(payload: Any) -> bytes:
    """What is sent for a value: texts as they are, anything else as JSON, nothing for None."""
    if payload is None:
        return b""
    return payload.encode() if isinstance(payload, str) else encode(payload)


def _decoded(payload: bytes) -> Any:
    try:
        return decode(payload)
    except DecodeError:
        return payload.decode("utf-8", "replace")


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline().strip()
    except OSError as exc:
        raise ConfigError(
            f"the file cannot be read: {exc.strerror}.",
            section="mqtt",
            option="password_file",
            remedy="Use 'password: {secrets.mqtt.password}' instead.",
        ) from None
