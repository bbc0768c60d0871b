"""Plugs of several makers: each understands its own requests, and nothing else.

`wrong` collects what a real device would not have understood: tests look that it stays empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from moonfast.components.power.tplink import decrypted, encrypted


class Plug:
    """A device with HTTP. Subclasses answer in `answer`: status, headers, value for JSON."""

    def __init__(self) -> None:
        self.is_on = False
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.delay_s = 0.0
        self.is_broken = False
        self.port = 0

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        raise NotImplementedError

    def refuse(self, what: str) -> Any:
        self.wrong.append(what)
        return 404, {}, {"error": what}

    def switch(self, word: str) -> None:
        self.is_on = word.lower() in ("on", "true", "1")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            raw = await reader.readexactly(int(headers.get("content-length", "0")))
            verb, target, _ = first.split()
            self.asked.append(f"{verb} {target}")
            url = urlsplit(target)
            query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
            await asyncio.sleep(self.delay_s)
            if self.is_broken:
                status, extra, value = 500, {}, {"error": "broken"}
            else:
                found = self.answer(verb, unquote(url.path), query, headers, json.loads(raw) if raw else None)
                status, extra, value = found if isinstance(found, tuple) else (200, {}, found)
            text = json.dumps(value).encode()
            more = "".join(f"{name}: {item}\r\n" for name, item in extra.items())
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n{more}\r\n".encode() + text)
            await writer.drain()
        writer.close()


class Tasmota(Plug):
    """Password "secret"; one relay, which it calls POWER, or several."""

    relays = 2

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if (verb, path, query.get("user"), query.get("password")) != ("GET", "/cm", "admin", "secret"):
            return self.refuse(f"{verb} {path} {query}")
        match = re.fullmatch(r"Power2( on| off)?", query.get("cmnd", ""))
        if match is None:
            return self.refuse(query.get("cmnd", ""))
        if match[1]:
            self.switch(match[1].strip())
        return {"POWER2" if self.relays > 1 else "POWER": "ON" if self.is_on else "OFF"}


class ShellyOld(Plug):
    """The first generation, with a login."""

    login = "Basic " + b64encode(b"me:secret").decode()

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if path == "/shelly":
            return {"type": "SHPLG-S", "auth": True}
        if (verb, path) != ("GET", "/relay/0") or query.get("turn", "on") not in ("on", "off"):
            return self.refuse(f"{verb} {path} {query}")
        if headers.get("authorization") != self.login:
            return 401, {"WWW-Authenticate": 'Basic realm="shelly"'}, None
        if "turn" in query:
            self.switch(query["turn"])
        return {"ison": self.is_on, "has_timer": False}


class ShellyNew(Plug):
    """Later generations, with Digest (RFC 7616, SHA-256)."""

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if path == "/shelly":
            return {"id": "shellyplusplugs", "gen": 2, "auth_en": True}
        if not self._is_authorized(verb, headers.get("authorization", "")):
            return (
                401,
                {"WWW-Authenticate": 'Digest qop="auth", realm="plug", nonce="60dc2c69", algorithm=SHA-256'},
                None,
            )
        if path == "/rpc/Switch.Set" and query.get("id") == "1" and query.get("on") in ("true", "false"):
            before, self.is_on = self.is_on, query["on"] == "true"
            return {"was_on": before}
        if path == "/rpc/Switch.GetStatus" and query == {"id": "1"}:
            return {"id": 1, "source": "http", "output": self.is_on}
        return self.refuse(f"{verb} {path} {query}")

    def _is_authorized(self, verb: str, text: str) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', text))
        if not text.startswith("Digest "):
            return False

        def digest(words: str) -> str:
            return hashlib.sha256(words.encode()).hexdigest()

        secret, request = digest("admin:plug:secret"), digest(f"{verb}:{given['uri']}")
        expected = digest(f"{secret}:60dc2c69:{given['nc']}:{given['cnonce']}:auth:{request}")
        if given["response"] != expected or given["uri"] not in self.asked[-1]:
            self.wrong.append(text)
            return False
        return True


class Homeseer(Plug):
    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        login = (query.get("user"), query.get("pass"), query.get("ref"))
        if (verb, path) != ("GET", "/JSON") or login != ("admin", "secret", "42"):
            return self.refuse(f"{verb} {path} {query}")
        if query["request"] == "controldevicebylabel" and query.get("label") in ("On", "Off"):
            self.switch(query["label"])
        elif query["request"] != "getstatus":
            return self.refuse(str(query))
        return {"Name": "HomeSeer Devices", "Devices": [{"ref": 42, "status": "On" if self.is_on else "Off"}]}


class Homeassistant(Plug):
    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if headers.get("authorization") != "Bearer the-token":
            return 401, {}, {"message": "unauthorized"}
        match = re.fullmatch(r"/api/services/switch/turn_(on|off)", path)
        if verb == "POST" and match and body == {"entity_id": "switch.printer"}:
            self.switch(match[1])
            return []  # it does not tell the state here
        if (verb, path) == ("GET", "/api/states/switch.printer"):
            return {"entity_id": "switch.printer", "state": "on" if self.is_on else "off"}
        return self.refuse(f"{verb} {path} {body}")


class Loxone(Plug):
    login = "Basic " + b64encode(b"admin:admin").decode()

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        match = re.fullmatch(r"/jdev/sps/io/The plug/(on|off|all)", path)
        if verb != "GET" or match is None or headers.get("authorization") != self.login:
            return self.refuse(f"{verb} {path}")
        if match[1] != "all":
            self.switch(match[1])
        return {"LL": {"control": path[1:], "value": "1" if self.is_on else "0", "Code": "200"}}


class Smartthings(Plug):
    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if headers.get("authorization") != "Bearer the-token":
            return 401, {}, {}
        if (verb, path) == ("POST", "/v1/devices/d-1/commands"):
            (command,) = body["commands"]
            if (command["component"], command["capability"]) != ("main", "switch"):
                return self.refuse(str(body))
            self.switch(command["command"])
            return {"results": [{"status": "ACCEPTED"}]}
        if (verb, path) == ("GET", "/v1/devices/d-1/components/main/capabilities/switch/status"):
            return {"switch": {"value": "on" if self.is_on else "off"}}
        return self.refuse(f"{verb} {path}")


class HueLight(Plug):
    place, setting, shown = "lights/3", "state", "on"

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if verb == "PUT" and path == f"/api/the-key/{self.place}/{self.setting}" and list(body) == ["on"]:
            self.is_on = body["on"]
            return [{"success": {f"/{self.place}/{self.setting}/on": self.is_on}}]
        if (verb, path) == ("GET", f"/api/the-key/{self.place}"):
            return {"state": {self.shown: self.is_on}, "name": "lamp"}
        return self.refuse(f"{verb} {path} {body}")


class HueGroup(HueLight):
    place, setting, shown = "groups/3", "action", "all_on"


class Kasa(Plug):
    """A strip with two sockets, the second of which is meant."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            length = int.from_bytes(await reader.readexactly(4), "big")
            request = json.loads(decrypted(await reader.readexactly(length)))
            self.asked.append(json.dumps(request))
            await asyncio.sleep(self.delay_s)
            text = json.dumps(self._answer(request)).encode()
            writer.write(len(text).to_bytes(4, "big") + encrypted(text))
            await writer.drain()
        writer.close()

    def _answer(self, request: Any) -> Any:
        if self.is_broken:
            return {"system": {"set_relay_state": {"err_code": -3}, "get_sysinfo": {"err_code": -3}}}
        if request == {"system": {"get_sysinfo": {}}}:
            children = [{"id": "00", "state": 0}, {"id": "01", "state": int(self.is_on)}]
            return {"system": {"get_sysinfo": {"deviceId": "8006E", "children": children, "err_code": 0}}}
        wanted = request.get("system", {}).get("set_relay_state", {}).get("state")
        if wanted not in (0, 1) or request.get("context") != {"child_ids": ["8006E01"]}:
            self.wrong.append(str(request))
            return {"system": {"set_relay_state": {"err_code": -1}}}
        self.is_on = bool(wanted)
        return {"system": {"set_relay_state": {"err_code": 0}}}


@contextlib.asynccontextmanager
async def serving(kind: Callable[[], Plug]) -> AsyncIterator[Plug]:
    """A device on a port of its own."""
    plug = kind()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await plug.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    plug.port = server.sockets[0].getsockname()[1]
    try:
        yield plug
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
