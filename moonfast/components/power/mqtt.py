"""A device behind an MQTT broker. Its state is what it tells on its topic, whoever switched it.

Source: Moonraker's documentation, "[power]", "MQTT Device Configuration".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from moonfast.components.power.device import ERROR, INIT, OFF, ON, DeviceError, NotYet, Parts, PowerConfig
from moonfast.config.options import Option, Template
from moonfast.errors import StartError, TemplateFailed


class MqttDeviceConfig(PowerConfig, prefix="power", type="mqtt"):
    """Needs the section [mqtt]. The device has to tell its state on a topic, after a command and by itself."""

    qos: Annotated[int | None, Option(minimum=0, maximum=2, doc="Without it: that of [mqtt].")] = None
    command_topic: Annotated[str, Option(doc="Where commands go.")]
    command_payload: Annotated[Template, Option(doc="What is sent; knows `command`, which is on or off.")]
    retain_command_state: Annotated[bool, Option(doc="Have the broker keep the last command.")] = False
    state_topic: Annotated[str, Option(doc="Where the device tells its state.")]
    state_response_template: Annotated[
        Template, Option(doc="Reads what it tells; knows `payload`, and has to give on or off.")
    ] = Template("{payload}")
    state_timeout: Annotated[
        float, Option(above=0.0, unit="s", doc="The device is in error if it does not tell its state for so long.")
    ] = 2.0
    query_topic: Annotated[str | None, Option(doc="Where the device is asked for its state.")] = None
    query_payload: Annotated[Template | None, Option(doc="What is sent there.")] = None
    query_after_command: Annotated[bool, Option(doc="Ask after each command, for devices that say nothing.")] = False


class MqttDevice:
    def __init__(self, config: MqttDeviceConfig, parts: Parts) -> None:
        if parts.mqtt is None:
            raise StartError(f"[{config.section_name}] needs the section [mqtt]: add it to the configuration")
        self._config, self._broker = config, parts.mqtt
        compile_ = parts.templates.compile
        self._command, self._response = compile_(config.command_payload), compile_(config.state_response_template)
        self._query = compile_(config.query_payload) if config.query_payload else None
        self._changed: Callable[[str], None] = lambda state: None
        self._end: Callable[[], None] = lambda: None
        self._state: str | None = None
        self._told = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def start(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._end = self._broker.subscribe(self._config.state_topic, self._take, self._config.qos)
        self._broker.on_connection.append(self._follow)

    async def stop(self) -> None:
        self._broker.on_connection.remove(self._follow)
        self._end()
        if self._reading is not None:
            self._reading.cancel()

    async def read(self) -> str:
        if not self._broker.is_connected:
            raise NotYet("the MQTT broker is not connected")
        if self._state is not None:  # it tells of every change
            return self._state
        if self._config.query_topic is not None:
            await self._ask()
        return await self._next()

    async def write(self, state: str) -> str:
        config = self._config
        self._told.clear()
        payload = await self._command.render({"command": state})
        await self._broker.publish(config.command_topic, payload, qos=config.qos, retain=config.retain_command_state)
        if config.query_after_command:
            await self._ask()
        return await self._next()

    async def _ask(self) -> None:
        payload = await self._query.render() if self._query is not None else None
        assert self._config.query_topic is not None
        await self._broker.publish(self._config.query_topic, payload, qos=self._config.qos)

    async def _next(self) -> str:
        """Wait for what the device tells."""
        try:
            async with asyncio.timeout(self._config.state_timeout):
                await self._told.wait()
        except TimeoutError:
            raise DeviceError(f"it told no state within {self._config.state_timeout:g} s") from None
        assert self._state is not None
        return self._state

    def _follow(self, is_connected: bool) -> None:
        if not is_connected:
            self._state = None
            self._changed(INIT)

    def _take(self, payload: bytes) -> None:
        self._reading = asyncio.get_running_loop().create_task(self._read_payload(payload))

    async def _read_payload(self, payload: bytes) -> None:
        try:
            text = await self._response.render({"payload": payload.decode("utf-8", "replace")})
        except TemplateFailed:
            text = ""
        state = text.lower()
        if state not in (ON, OFF):
            self._changed(ERROR)
            return
        self._state = state
        self._told.set()
        self._changed(state)
