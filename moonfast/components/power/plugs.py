"""Plugs and hubs that are switched by plain HTTP requests, each in the way of its maker.

| type | on | state |
|---|---|---|
| tasmota | `GET /cm?cmnd=Power1 on` | `GET /cm?cmnd=Power1` |
| shelly, first generation | `GET /relay/0?turn=on` | `GET /relay/0` |
| shelly, later ones | `GET /rpc/Switch.Set?id=0&on=true` | `GET /rpc/Switch.GetStatus?id=0` |
| homeseer | `GET /JSON?request=controldevicebylabel&label=On` | `GET /JSON?request=getstatus` |
| homeassistant | `POST /api/services/switch/turn_on` | `GET /api/states/switch.x` |
| loxonev1 | `GET /jdev/sps/io/x/on` | `GET /jdev/sps/io/x/all` |
| smartthings | `POST /v1/devices/x/commands` | `GET /v1/devices/x/components/main/capabilities/switch/status` |
| hue | `PUT /api/key/lights/1/state` | `GET /api/key/lights/1` |

Sources: the makers' documentation of these requests; Moonraker's documentation, "[power]", for the options.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from moonfast.codec import encode
from moonfast.components.power.device import OFF, ON, DeviceError, Parts, PowerConfig
from moonfast.config.options import Option, Template
from moonfast.host.digest import answer_to
from moonfast.host.http_client import HttpClient, RequestError, Response

TIMEOUT_S = 6.0


class Plug:
    """Base of all: one request at a time, an answer in JSON."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._client = HttpClient(places=1)

    async def start(self, changed: Callable[[str], None]) -> None:
        """Nothing is to be prepared."""

    async def stop(self) -> None:
        """Nothing is left open."""

    async def _send(
        self, path: str, *, verb: str = "GET", headers: dict[str, str] | None = None, body: Any = None
    ) -> Response:
        content = None if body is None else encode(body)
        headers = {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})}
        return await self._client.request(verb, self._base + path, headers=headers, body=content, timeout_s=TIMEOUT_S)

    async def _ask(
        self, path: str, *, verb: str = "GET", headers: dict[str, str] | None = None, body: Any = None
    ) -> Any:
        """The answer, decoded. RequestError: it is none, or an error."""
        return checked(await self._send(path, verb=verb, headers=headers, body=body)).json()


def checked(response: Response) -> Response:
    """RequestError: the answer is an error."""
    if response.status in (401, 403):
        raise RequestError("the login is refused: check user, password and token")
    if not 200 <= response.status < 300:
        raise RequestError(f"the device answered with the status {response.status}")
    return response


def pick(answer: Any, *keys: str | int) -> Any:
    """A value inside of an answer. DeviceError: it is not there."""
    for key in keys:
        try:
            answer = answer[key]
        except (KeyError, IndexError, TypeError):
            raise DeviceError(f"the answer has no '{'.'.join(map(str, keys))}'") from None
    return answer


def state_of(value: Any) -> str:
    """On or off, however it is written. DeviceError: neither."""
    found = {"on": ON, "true": ON, "1": ON, "1.0": ON, "off": OFF, "false": OFF, "0": OFF, "0.0": OFF}.get(
        str(value).lower()
    )
    if found is None:
        raise DeviceError(f"the device tells a state that is neither on nor off: '{str(value)[:40]}'")
    return found


class Login:
    """User and password of a section, rendered when first needed."""

    def __init__(self, user: Template | str | None, password: Template | None, parts: Parts) -> None:
        self._templates = [
            parts.templates.compile(item if isinstance(item, Template) else Template(item)) if item else None
            for item in (user, password)
        ]

    async def rendered(self) -> tuple[str, str]:
        """Empty texts for what is not given."""
        user, password = [await item.render() if item is not None else "" for item in self._templates]
        return user, password


class TasmotaConfig(PowerConfig, prefix="power", type="tasmota"):
    """A device with the firmware Tasmota. If it does not tell its state, set its option SetOption26."""

    address: Annotated[str, Option(doc="Name or address of the device.")]
    password: Annotated[Template | None, Option(doc="Its password.")] = None
    output_id: Annotated[int, Option(minimum=1, maximum=32, doc="Which of its relays.")] = 1


class Tasmota(Plug):
    def __init__(self, config: TasmotaConfig, parts: Parts) -> None:
        super().__init__(f"http://{config.address}")
        self._output = f"Power{config.output_id}"
        self._login = Login(None, config.password, parts)

    async def read(self) -> str:
        return await self._command(self._output)

    async def write(self, state: str) -> str:
        return await self._command(f"{self._output} {state}")

    async def _command(self, command: str) -> str:
        _, password = await self._login.rendered()
        login = {"user": "admin", "password": password} if password else {}
        answer = await self._ask("/cm?" + urlencode({**login, "cmnd": command}, quote_via=quote))
        found = answer.get(self._output.upper(), answer.get("POWER")) if isinstance(answer, dict) else None
        if found is None:
            raise DeviceError("the answer does not tell the state: set SetOption26 on the device")
        return state_of(found)


class ShellyConfig(PowerConfig, prefix="power", type="shelly"):
    """A Shelly of any generation; which one it is, it tells itself."""

    address: Annotated[str, Option(doc="Name or address of the device.")]
    user: Annotated[Template | None, Option(doc="Its user; `admin` if there is a password.")] = None
    password: Annotated[Template | None, Option(doc="Its password.")] = None
    output_id: Annotated[int, Option(minimum=0, maximum=31, doc="Which of its relays.")] = 0


class Shelly(Plug):
    def __init__(self, config: ShellyConfig, parts: Parts) -> None:
        super().__init__(f"http://{config.address}")
        self._output = config.output_id
        self._login = Login(config.user, config.password, parts)
        self._is_new: bool | None = None  # second generation or later

    async def read(self) -> str:
        if await self._generation():
            return state_of(pick(await self._authorized(f"/rpc/Switch.GetStatus?id={self._output}"), "output"))
        return state_of(pick(await self._authorized(f"/relay/{self._output}"), "ison"))

    async def write(self, state: str) -> str:
        if await self._generation():
            flag = "true" if state == ON else "false"
            await self._authorized(f"/rpc/Switch.Set?id={self._output}&on={flag}")
            return await self.read()
        return state_of(pick(await self._authorized(f"/relay/{self._output}?turn={state}"), "ison"))

    async def _generation(self) -> bool:
        if self._is_new is None:
            about = await self._ask("/shelly")
            self._is_new = isinstance(about, dict) and about.get("gen", 1) >= 2
        return self._is_new

    async def _authorized(self, path: str) -> Any:
        user, password = await self._login.rendered()
        user = user or "admin"
        response = await self._send(path, headers=_basic(user, password) if password and not self._is_new else None)
        challenge = response.headers.get("www-authenticate", "")
        if response.status == 401 and password and challenge.lower().startswith("digest"):
            response = await self._send(
                path, headers={"Authorization": answer_to(challenge, "GET", path, user, password)}
            )
        return checked(response).json()


def _basic(user: str, password: str) -> dict[str, str]:
    from base64 import b64encode

    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


class HomeseerConfig(PowerConfig, prefix="power", type="homeseer"):
    """A device of a HomeSeer controller."""

    address: Annotated[str, Option(doc="Name or address of the controller.")]
    device: Annotated[int, Option(minimum=0, doc="Number of the device (its reference ID).")]
    user: Annotated[Template | None, Option(doc="User of the controller; `admin` without it.")] = None
    password: Annotated[Template | None, Option(doc="The password.")] = None


class Homeseer(Plug):
    def __init__(self, config: HomeseerConfig, parts: Parts) -> None:
        super().__init__(f"http://{config.address}")
        self._device = config.device
        self._login = Login(config.user, config.password, parts)

    async def read(self) -> str:
        return state_of(pick(await self._request("getstatus"), "Devices", 0, "status"))

    async def write(self, state: str) -> str:
        await self._request("controldevicebylabel", label=state.capitalize())
        return await self.read()

    async def _request(self, request: str, **more: str) -> Any:
        user, password = await self._login.rendered()
        query = {"user": user or "admin", "pass": password, "request": request, "ref": self._device, **more}
        return await self._ask("/JSON?" + urlencode(query, quote_via=quote))


class HomeassistantConfig(PowerConfig, prefix="power", type="homeassistant"):
    """An entity of Home Assistant."""

    address: Annotated[str, Option(doc="Name or address of the server.")]
    protocol: Annotated[Literal["http", "https"], Option(doc="How it is asked.")] = "http"
    port: Annotated[int, Option(minimum=1, maximum=65535, doc="Its port.")] = 8123
    device: Annotated[str, Option(doc="The entity: `switch.printer`.")]
    token: Annotated[Template, Option(doc="A long-lived access token.")]
    domain: Annotated[str, Option(doc="Which service switches it.")] = "switch"
    status_delay: Annotated[
        float, Option(minimum=0.0, maximum=20.0, unit="s", doc="It is asked for its state so long after a command.")
    ] = 1.0


class Homeassistant(Plug):
    def __init__(self, config: HomeassistantConfig, parts: Parts) -> None:
        super().__init__(f"{config.protocol}://{config.address}:{config.port}")
        self._config, self._token = config, parts.templates.compile(config.token)

    async def read(self) -> str:
        answer = await self._ask(f"/api/states/{quote(self._config.device)}", headers=await self._headers())
        return state_of(pick(answer, "state"))

    async def write(self, state: str) -> str:
        path = f"/api/services/{quote(self._config.domain)}/turn_{state}"
        await self._ask(path, verb="POST", headers=await self._headers(), body={"entity_id": self._config.device})
        await asyncio.sleep(self._config.status_delay)
        return await self.read()

    async def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {await self._token.render()}"}


class Loxonev1Config(PowerConfig, prefix="power", type="loxonev1"):
    """An output of a Loxone Miniserver."""

    address: Annotated[str, Option(doc="Name or address of the Miniserver.")]
    user: Annotated[Template | None, Option(doc="User; `admin` without it.")] = None
    password: Annotated[Template | None, Option(doc="Password; `admin` without it.")] = None
    output_id: Annotated[str, Option(doc="Name of the output.")]


class Loxonev1(Plug):
    def __init__(self, config: Loxonev1Config, parts: Parts) -> None:
        super().__init__(f"http://{config.address}")
        self._output = quote(config.output_id, safe="")
        self._login = Login(config.user, config.password, parts)

    async def read(self) -> str:
        return await self._command("all")

    async def write(self, state: str) -> str:
        await self._command(state)
        return await self.read()

    async def _command(self, command: str) -> str:
        user, password = await self._login.rendered()
        headers = _basic(user or "admin", password or "admin")
        answer = await self._ask(f"/jdev/sps/io/{self._output}/{command}", headers=headers)
        return state_of(pick(answer, "LL", "value"))


class SmartthingsConfig(PowerConfig, prefix="power", type="smartthings"):
    """A device of the SmartThings cloud."""

    address: Annotated[str, Option(doc="The cloud.")] = "api.smartthings.com"
    protocol: Annotated[Literal["http", "https"], Option(doc="How it is asked.")] = "https"
    port: Annotated[int, Option(minimum=1, maximum=65535, doc="Its port.")] = 443
    device: Annotated[str, Option(doc="ID of the device.")]
    token: Annotated[Template, Option(doc="A personal access token.")]


class Smartthings(Plug):
    def __init__(self, config: SmartthingsConfig, parts: Parts) -> None:
        super().__init__(f"{config.protocol}://{config.address}:{config.port}")
        self._device, self._token = quote(config.device, safe=""), parts.templates.compile(config.token)

    async def read(self) -> str:
        path = f"/v1/devices/{self._device}/components/main/capabilities/switch/status"
        return state_of(pick(await self._ask(path, headers=await self._headers()), "switch", "value"))

    async def write(self, state: str) -> str:
        command = {"component": "main", "capability": "switch", "command": state}
        path = f"/v1/devices/{self._device}/commands"
        await self._ask(path, verb="POST", headers=await self._headers(), body={"commands": [command]})
        return state  # the cloud tells the new state some seconds later

    async def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {await self._token.render()}"}


class HueConfig(PowerConfig, prefix="power", type="hue"):
    """A light or a group of a Philips Hue bridge."""

    address: Annotated[str, Option(doc="Name or address of the bridge.")]
    port: Annotated[int, Option(minimum=1, maximum=65535, doc="Its port.")] = 80
    user: Annotated[Template, Option(doc="The key that the bridge has given.")]
    device_id: Annotated[str, Option(doc="Number of the light or group.")]
    device_type: Annotated[Literal["light", "group"], Option(doc="Which of them it is.")] = "light"


class Hue(Plug):
    def __init__(self, config: HueConfig, parts: Parts) -> None:
        super().__init__(f"http://{config.address}:{config.port}")
        self._user = parts.templates.compile(config.user)
        self._path = f"{config.device_type}s/{quote(config.device_id, safe='')}"
        self._set, self._shown = ("state", "on") if config.device_type == "light" else ("action", "all_on")

    async def read(self) -> str:
        return state_of(pick(await self._ask(await self._place()), "state", self._shown))

    async def write(self, state: str) -> str:
        answer = await self._ask(f"{await self._place()}/{self._set}", verb="PUT", body={"on": state == ON})
        done = pick(answer, 0, "success")
        return state_of(pick(done, f"/{self._path}/{self._set}/on"))

    async def _place(self) -> str:
        return f"/api/{quote(await self._user.render(), safe='')}/{self._path}"
