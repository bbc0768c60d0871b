"""Cameras, as front ends show them: from the configuration, and what users add in the front ends.

The pictures never pass through this server; it only keeps where they are. Source: Moonraker's documentation, "Webcam
APIs".
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, TypedDict
from uuid import NAMESPACE_URL, uuid4, uuid5

from moonfast.access.trusted import TrustedClients, read_address
from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.component import Component
from moonfast.config.options import Option, Section
from moonfast.errors import BadRequest, NotFound
from moonfast.host.http_client import HttpClient, RequestError
from moonfast.storage.database import Database
from moonfast.vocab import DELETE, GET, POST

log = logging.getLogger(__name__)

NAMESPACE = "webcams"
MAX_WEBCAMS = 200
MAX_TEXT = 2048
"""Characters of a name or an address."""
ROTATIONS = (0, 90, 180, 270)
LOCAL_SERVER = "http://127.0.0.1"
"""Where an address without a host is looked for: the web server of the front end."""
TEST_TIMEOUT_S = 2.0


class WebcamConfig(Section, prefix="webcam"):
    location: Annotated[str, Option(doc="What it looks at.")] = "printer"
    icon: Annotated[str, Option(doc="Name of the icon in front ends.")] = "mdiWebcam"
    enabled: Annotated[bool, Option(doc="Show it.")] = True
    service: Annotated[str, Option(doc="How front ends show the stream.")] = "mjpegstreamer"
    target_fps: Annotated[int, Option(minimum=1, doc="Pictures a second.")] = 15
    target_fps_idle: Annotated[int, Option(minimum=1, doc="Pictures a second while nothing is printed.")] = 5
    stream_url: Annotated[str, Option(doc="Address of the stream, whole or without the host.")]
    snapshot_url: Annotated[str, Option(doc="Address of a single picture, whole or without the host.")] = ""
    flip_horizontal: Annotated[bool, Option(doc="Mirror the picture.")] = False
    flip_vertical: Annotated[bool, Option(doc="Turn the picture upside down.")] = False
    rotation: Annotated[Literal[0, 90, 180, 270], Option(doc="Turn the picture by so many degrees.")] = 0
    aspect_ratio: Annotated[str, Option(doc="Width and height of the picture, 16:9 for instance.")] = "4:3"


class WebcamInfo(TypedDict):
    name: str
    location: str
    service: str
    enabled: bool
    icon: str
    target_fps: int
    target_fps_idle: int
    stream_url: str
    snapshot_url: str
    flip_horizontal: bool
    flip_vertical: bool
    rotation: int
    aspect_ratio: str
    extra_data: dict[str, Any]
    source: str
    uid: str


class WebcamAnswer(TypedDict):
    webcam: WebcamInfo


class WebcamList(TypedDict):
    webcams: list[WebcamInfo]


class WebcamTest(TypedDict):
    name: str
    snapshot_reachable: bool
    snapshot_url: str
    stream_reachable: bool
    stream_url: str


CHANGED = notification("webcams_changed", WebcamList, "A camera was added, changed or deleted; all of them now.")

_DEFAULTS: dict[str, Any] = {name: getattr(WebcamConfig, name, "") for name in WebcamConfig.__annotations__}


class Webcams(Component):
    def __init__(self, configs: list[WebcamConfig], database: Database, trusted: TrustedClients) -> None:
        self._trusted = trusted
        self._stored = database.namespace(NAMESPACE)
        self._client = HttpClient()
        self._webcams: dict[str, WebcamInfo] = {}  # by uid
        self._configs = configs

    async def start(self) -> None:
        for config in self._configs:
            values: Any = {name: getattr(config, name) for name in _DEFAULTS}
            uid = str(uuid5(NAMESPACE_URL, f"moonraker.webcam.{config.own_name}"))
            extra = {"name": config.own_name, "extra_data": {}, "source": "config", "uid": uid}
            self._webcams[uid] = values | extra
        for uid, record in self._stored.items():
            webcam = _read(uid, record)
            if webcam is not None and self._named(webcam["name"]) is None:
                self._webcams[uid] = webcam

    @endpoint(GET, "/server/webcams/list")
    def list_webcams(self, call: Call) -> WebcamList:
        """Return all cameras."""
        return {"webcams": list(self._webcams.values())}

    @endpoint(GET, "/server/webcams/item")
    def get_webcam(self, call: Call, name: str | None = None, uid: str | None = None) -> WebcamAnswer:
        """Return one camera, by its name or its uid. Error 404: there is none."""
        return {"webcam": self._find(name, uid)}

    @endpoint(POST, "/server/webcams/item")
    async def post_webcam(
        self,
        call: Call,
        name: str | None = None,
        uid: str | None = None,
        location: str | None = None,
        icon: str | None = None,
        enabled: bool | None = None,
        service: str | None = None,
        target_fps: int | None = None,
        target_fps_idle: int | None = None,
        stream_url: str | None = None,
        snapshot_url: str | None = None,
        flip_horizontal: bool | None = None,
        flip_vertical: bool | None = None,
        rotation: int | None = None,
        aspect_ratio: str | None = None,
        extra_data: dict[str, Any] | None = None,
    ) -> WebcamAnswer:
        """Add a camera, or change the one with this uid or name: what is not given stays.

        A new one needs a name and a `stream_url`. `extra_data` is the client's own. Error 400: a value cannot be, or
        the camera comes from the configuration.
        """
        given = {key: value for key, value in locals().items() if key in _FIELDS and value is not None}
        _check(given)
        old = self._webcams.get(uid) if uid is not None else self._named(name)
        if uid is not None and old is None:
            raise NotFound(f"Webcam {uid} not found")
        if old is not None and old["source"] == "config":
            raise BadRequest(f"Cannot overwrite webcam '{old['name']}' sourced from Moonraker configuration")
        for needed in ("name", "stream_url"):
            if old is None and needed not in given:
                raise BadRequest(f"No data for argument: {needed}")
        namesake = self._named(given.get("name"))
        if namesake is not None and namesake is not old:
            raise BadRequest(f"There is a webcam '{namesake['name']}' already: choose another name")
        if old is None and len(self._webcams) >= MAX_WEBCAMS:
            raise BadRequest(f"There are {MAX_WEBCAMS} webcams already: delete one first")
        own: Any = old or {**_DEFAULTS, "extra_data": {}, "source": "database", "uid": str(uuid4())}
        webcam: Any = {**own, **given}
        await self._stored.save(webcam["uid"], webcam)
        self._webcams[webcam["uid"]] = webcam
        self.emit_soon(CHANGED, self.list_webcams(call))
        return {"webcam": webcam}

    @endpoint(DELETE, "/server/webcams/item")
    async def delete_webcam(self, call: Call, name: str | None = None, uid: str | None = None) -> WebcamAnswer:
        """Delete a camera. Error 400: it comes from the configuration; 404: there is none."""
        webcam = self._find(name, uid)
        if webcam["source"] == "config":
            raise BadRequest(f"Cannot delete webcam '{webcam['name']}' sourced from Moonraker configuration")
        await self._stored.remove(webcam["uid"])
        self._webcams.pop(webcam["uid"], None)
        self.emit_soon(CHANGED, self.list_webcams(call))
        return {"webcam": webcam}

    @endpoint(POST, "/server/webcams/test")
    async def test_webcam(self, call: Call, name: str | None = None, uid: str | None = None) -> WebcamTest:
        """Ask whether stream and snapshot of a camera that is known can be reached from this machine.

        An address inside of the network is asked only if the configuration has the camera, or names the address in
        trusted_clients.
        """
        webcam = self._find(name, uid)
        return {
            "name": webcam["name"],
            "snapshot_reachable": await self._is_reachable(webcam, webcam["snapshot_url"]),
            "snapshot_url": _whole(webcam["snapshot_url"]),
            "stream_reachable": await self._is_reachable(webcam, webcam["stream_url"]),
            "stream_url": _whole(webcam["stream_url"]),
        }

    async def _is_reachable(self, webcam: WebcamInfo, url: str) -> bool:
        if not url:
            return False
        is_named = webcam["source"] == "config" or "://" not in url
        may_ask = None if is_named else self._may_ask
        try:
            answer = await self._client.get(_whole(url), timeout_s=TEST_TIMEOUT_S, max_bytes=0, may_ask=may_ask)
        except RequestError as exc:
            log.info("A webcam cannot be reached: %s", exc)
            return False
        return answer.status < 400

    def _may_ask(self, address: str) -> bool:
        """Whoever adds a camera in a front end must not look around in the network with it."""
        found = read_address(address)
        return found is not None and (found.is_global or self._trusted.is_named(found))

    def _named(self, name: str | None) -> WebcamInfo | None:
        return next((item for item in self._webcams.values() if item["name"] == name), None)

    def _find(self, name: str | None, uid: str | None) -> WebcamInfo:
        if name is None and uid is None:
            raise BadRequest("No data for argument: name (or uid)")
        found = self._webcams.get(uid) if uid is not None else self._named(name)
        if found is None:
            raise NotFound(f"Webcam {name if uid is None else uid} not found")
        return found


_FIELDS = frozenset(("name", *_DEFAULTS, "extra_data"))


def _check(given: dict[str, Any]) -> None:
    if given.get("rotation", 0) not in ROTATIONS:
        raise BadRequest(f"Invalid value for 'rotation': {given['rotation']}. Use 0, 90, 180 or 270")
    for key, value in given.items():
        if isinstance(value, str) and (len(value) > MAX_TEXT or (key in ("name", "stream_url") and not value)):
            raise BadRequest(f"Invalid value for '{key}': it must have 1 to {MAX_TEXT} characters")
        if key.startswith("target_fps") and not 0 < value < 1000:
            raise BadRequest(f"Invalid value for '{key}': {value}. Use 1 to 999")


def _read(uid: str, record: Any) -> WebcamInfo | None:
    """A camera as it is stored; also by front ends of long ago, which wrote it by themselves. What is not of the type
    of its field counts as missing.
    """
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        return None
    old = {
        "stream_url": record.get("urlStream"),
        "snapshot_url": record.get("urlSnapshot"),
        "flip_horizontal": record.get("flipX"),
        "flip_vertical": record.get("flipY"),
        "target_fps": record.get("targetFps"),
        "target_fps_idle": record.get("targetFpsIdle"),
        "aspect_ratio": record.get("aspectRatio"),
    }
    webcam: Any = {**_DEFAULTS, "name": "", "extra_data": {}}
    types = {key: type(value) for key, value in webcam.items()}
    for values in (old, record):
        webcam |= {key: value for key, value in values.items() if types.get(key) is type(value)}
    if webcam["rotation"] not in ROTATIONS:
        webcam["rotation"] = 0
    webcam |= {"source": "database", "uid": uid}
    return webcam  # type: ignore[no-any-return]


def _whole(url: str) -> str:
    """An address with its host."""
    if not url or "://" in url:
        return url
    return LOCAL_SERVER + ("" if url.startswith("/") else "/") + url
