"""A device that is switched by HTTP requests, which the configuration describes by templates.

Source: Moonraker's documentation, "[power]", "Generic HTTP Devices".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from moonfast.codec import encode
from moonfast.components.power.device import OFF, ON, DeviceError, Parts, PowerConfig
from moonfast.config.options import Option, Template
from moonfast.host.http_client import HttpClient, RequestError, Response

log = logging.getLogger(__name__)

TIMEOUT_S = 8.0
REDIRECTS = 3
MAX_SLEEP_S = 20.0


class HttpDeviceConfig(PowerConfig, prefix="power", type="http"):
    """Anything that is switched by HTTP requests. Redirects are followed to the same server only."""

    on_url: Annotated[Template, Option(doc="Address that switches it on.")]
    off_url: Annotated[Template, Option(doc="Address that switches it off.")]
    status_url: Annotated[Template, Option(doc="Address that tells its state.")]
    request_template: Annotated[
        Template | None,
        Option(doc="Prepares and sends the request: method, headers, body. Without it: GET of the address."),
    ] = None
    response_template: Annotated[Template, Option(doc="Reads the answer; its text has to be `on` or `off`.")]


class HttpDevice:
    def __init__(self, config: HttpDeviceConfig, parts: Parts) -> None:
        templates = parts.templates
        self._urls = {
            "on": templates.compile(config.on_url),
            "off": templates.compile(config.off_url),
            "status": templates.compile(config.status_url),
        }
        self._request = templates.compile(config.request_template) if config.request_template else None
        self._response = templates.compile(config.response_template)
        self._client = HttpClient(places=1)

    async def start(self, changed: Callable[[str], None]) -> None:
        """Nothing is to be prepared."""

    async def stop(self) -> None:
        """Nothing is left open."""

    async def read(self) -> str:
        return await self._send("status")

    async def write(self, state: str) -> str:
        return await self._send(state)

    async def _send(self, command: str) -> str:
        urls = {name: await template.render() for name, template in self._urls.items()}
        request = Request(self._client, urls[command])
        known: dict[str, Any] = {
            "command": command,
            "http_request": request,
            "async_sleep": _sleep,
            "log_debug": log.debug,
            "urls": urls,
        }
        if self._request is not None:
            await self._request.render(known)
        if request.last_response() is None:
            await request.send()
        request.checked()
        state = (await self._response.render(known)).lower()
        request.checked()
        if state not in (ON, OFF):
            raise DeviceError(f"response_template gave '{state[:40]}': it has to give on or off")
        return state


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(min(float(seconds), MAX_SLEEP_S))


class Request:
    """`http_request` of the templates."""

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client, self._first_url = client, url
        self._response: Answer | None = None
        self.reset()

    def reset(self) -> None:
        self._method, self._url, self._body = "GET", self._first_url, b""
        self._headers: dict[str, str] = {}

    def set_method(self, method: str) -> None:
        self._method = str(method).upper()

    def set_url(self, url: str) -> None:
        self._url = str(url)

    def set_body(self, body: Any) -> None:
        if isinstance(body, dict | list):
            self._body = encode(body)
            self._headers["Content-Type"] = "application/json"
        else:
            self._body = str(body).encode() if body is not None else b""

    def add_header(self, name: str, value: str) -> None:
        self._headers[str(name)] = str(value)

    def set_headers(self, headers: Mapping[str, str]) -> None:
        self._headers = {str(name): str(value) for name, value in headers.items()}

    def last_response(self) -> Answer | None:
        return self._response

    async def send(self, **_: Any) -> Answer:
        response = await self._client.request(
            self._method,
            self._url,
            headers=self._headers,
            body=self._body or None,
            timeout_s=TIMEOUT_S,
            follow=REDIRECTS if self._method == "GET" else 0,
        )
        self._response = Answer(response, self._url)
        return self._response

    def checked(self) -> None:
        """RequestError: the last answer was an error."""
        if self._response is not None:
            self._response.raise_for_status()


class Answer:
    """`http_response` of the templates."""

    def __init__(self, response: Response, url: str) -> None:
        self._response = response
        self.status_code, self.headers, self.content = response.status, dict(response.headers), response.body
        self.url = self.final_url = url

    @property
    def text(self) -> str:
        return self._response.text

    def json(self) -> Any:
        return self._response.json()

    def has_error(self) -> bool:
        return not 200 <= self.status_code < 300

    def raise_for_status(self, message: str | None = None) -> None:
        if self.has_error():
            raise RequestError(message or f"the device answered with the status {self.status_code}")
