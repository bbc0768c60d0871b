"""Kasa plugs and strips of TP-Link: JSON over TCP, each byte xored with the encrypted one before it.

Wire: 4 bytes length, big endian, then the text; the first byte is xored with KEY. `set_relay_state` switches,
`get_sysinfo` tells the state, on strips of every socket ("children"). Newer firmware speaks another protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from moonfast.codec import DecodeError, decode, encode
from moonfast.components.power.device import ON, DeviceError, Parts, PowerConfig
from moonfast.components.power.plugs import pick, state_of
from moonfast.config.options import Option

KEY = 171
MAX_ANSWER_BYTES = 65536
TIMEOUT_S = 6.0


class TplinkConfig(PowerConfig, prefix="power", type="tplink_smartplug"):
    """A Kasa plug or strip with TP-Link's older protocol."""

    address: Annotated[str, Option(doc="Name or address of the device.")]
    port: Annotated[int, Option(minimum=1, maximum=65535, doc="Its port.")] = 9999
    output_id: Annotated[int, Option(minimum=0, maximum=16, doc="Socket of a strip, from 1; 0: it is a plug.")] = 0


class Tplink:
    def __init__(self, config: TplinkConfig, parts: Parts) -> None:
        address, _, socket = config.address.partition("/")  # an older form: 192.168.1.5/1
        self._address, self._port = address, config.port
        self._socket = config.output_id or (int(socket) if socket.isdecimal() else 0)

    async def start(self, changed: Callable[[str], None]) -> None:
        """Nothing is to be prepared."""

    async def stop(self) -> None:
        """Nothing is left open."""

    async def read(self) -> str:
        about = pick(await self._ask({"system": {"get_sysinfo": {}}}), "system", "get_sysinfo")
        if self._socket:
            return state_of(pick(about, "children", self._socket - 1, "state"))
        return state_of(pick(about, "relay_state"))

    async def write(self, state: str) -> str:
        command: dict[str, Any] = {"system": {"set_relay_state": {"state": 1 if state == ON else 0}}}
        if self._socket:
            about = pick(await self._ask({"system": {"get_sysinfo": {}}}), "system", "get_sysinfo")
            child = str(pick(about, "children", self._socket - 1, "id"))
            device = str(pick(about, "deviceId"))
            command["context"] = {"child_ids": [child if child.startswith(device) else device + child]}
        answer = await self._ask(command)
        if pick(answer, "system", "set_relay_state", "err_code") != 0:
            raise DeviceError("the device refuses to switch")
        return await self.read()

    async def _ask(self, command: dict[str, Any]) -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(self._address, self._port)
            try:
                text = encode(command)
                writer.write(len(text).to_bytes(4, "big") + encrypted(text))
                length = int.from_bytes(await reader.readexactly(4), "big")
                if length > MAX_ANSWER_BYTES:
                    raise DeviceError("the answer is too long: it is no TP-Link device")
                return decode(decrypted(await reader.readexactly(length)))
            except (asyncio.IncompleteReadError, DecodeError):
                raise DeviceError("the answer cannot be read: it is no TP-Link device, or has newer firmware") from None
            finally:
                writer.close()


def encrypted(text: bytes) -> bytes:
    """Each byte xored with the encrypted one before it."""
    key, out = KEY, bytearray()
    for byte in text:
        key ^= byte
        out.append(key)
    return bytes(out)


def decrypted(data: bytes) -> bytes:
    return bytes(byte ^ key for key, byte in zip((KEY, *data), data, strict=False))
