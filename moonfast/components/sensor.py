"""Sensors that publish to an MQTT broker: power meters, thermometers, anything with numbers.

Sources: Moonraker's documentation, "[sensor]" and its sensor endpoints.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import Annotated, Any, Literal, TypedDict, get_args

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.component import Component
from moonfast.components.auxiliary import AuxiliaryField, Strategy
from moonfast.components.history import History
from moonfast.components.mqtt import Mqtt
from moonfast.config.load import Config
from moonfast.config.options import Option, Section, Template
from moonfast.config.sections import DataStoreConfig
from moonfast.errors import BadRequest, ConfigError, MoonfastError, TemplateFailed
from moonfast.host.templates import Templates
from moonfast.vocab import GET

log = logging.getLogger(__name__)

PERIOD_S = 1.0
MAX_PARAMETERS = 50
"""Values of one sensor; what a template sets beyond that is ignored."""
PARAMETER, HISTORY_FIELD = "parameter_", "history_field_"


class SensorConfig(Section, prefix="sensor", free=(PARAMETER, HISTORY_FIELD)):
    """Needs the section [mqtt].

    `parameter_NAME:` describes a value, with lines like `units=C`. `history_field_NAME:` adds one to the history of
    each job: `parameter=NAME` and, as needed, `desc`, `strategy` (basic, delta, accumulate, average, maximum, minimum,
    collect), `units`, `init_tracker`, `exclude_paused`, `report_total`, `report_maximum`, `precision`.
    """

    type: Annotated[Literal["mqtt"], Option(doc="Where its values come from.")]
    name: Annotated[str | None, Option(doc="What front ends call it. Without it: the name of the section.")] = None
    state_topic: Annotated[str, Option(doc="The topic that it publishes to.")]
    qos: Annotated[int | None, Option(minimum=0, maximum=2, doc="Without it: that of [mqtt].")] = None
    state_response_template: Annotated[
        Template, Option(doc="Reads a message; knows `payload`, and calls `set_result(name, number)` for each value.")
    ] = Template('{set_result("value", payload|float)}')


class SensorInfo(TypedDict, total=False):
    """The last three come with `extended` only."""

    id: str
    friendly_name: str
    type: str
    values: dict[str, float]
    parameter_info: list[dict[str, Any]]
    history_fields: list[dict[str, Any]]


class SensorList(TypedDict):
    sensors: dict[str, SensorInfo]


UPDATE = notification("sensor_update", dict[str, dict[str, float]], "New values of sensors, by sensor and name.")


class Sensors(Component):
    section_types = {"": "moonfast.components.sensor:SensorConfig"}

    def __init__(
        self, config: Config, store: DataStoreConfig, mqtt: Mqtt, history: History, templates: Templates
    ) -> None:
        self._mqtt = mqtt
        usable, problems = config.usable_sections(SensorConfig)
        self.warnings = [str(problem) for problem in problems]
        self._sensors: dict[str, Sensor] = {}
        for section in usable:
            try:
                sensor = Sensor(section, store.temperature_store_size, templates)
            except MoonfastError as exc:
                self.warnings.append(str(exc))
                continue
            self._sensors[sensor.id] = sensor
            for field, _ in sensor.fields:
                history.add_field(field)
        for warning in self.warnings:
            log.error("A sensor cannot be used: %s", warning)

    async def start(self) -> None:
        for sensor in self._sensors.values():
            self._mqtt.subscribe(sensor.config.state_topic, sensor.receiver(self.spawn), sensor.config.qos)
        self.spawn(self._sample())

    async def _sample(self) -> None:
        """Keep one value a second of each sensor, and tell of what is new."""
        while True:
            await asyncio.sleep(PERIOD_S)
            changed = {sensor.id: dict(sensor.values) for sensor in self._sensors.values() if sensor.sample()}
            if changed:
                self.emit(UPDATE, changed)

    @endpoint(GET, "/server/sensors/list")
    def list_sensors(self, call: Call, extended: bool = False) -> SensorList:
        """Return all sensors with their last values."""
        return {"sensors": {name: sensor.info(extended) for name, sensor in self._sensors.items()}}

    @endpoint(GET, "/server/sensors/info")
    def sensor_info(self, call: Call, sensor: str, extended: bool = False) -> SensorInfo:
        """Return a sensor with its last values. Error 400: there is none of this name."""
        return self._find(sensor).info(extended)

    @endpoint(GET, "/server/sensors/measurements")
    def measurements(self, call: Call, sensor: str | None = None) -> dict[str, dict[str, list[float]]]:
        """Return the values of each second, oldest first, of one sensor or of all."""
        found = list(self._sensors.values()) if sensor is None else [self._find(sensor)]
        return {item.id: {name: list(values) for name, values in item.series.items()} for item in found}

    def _find(self, name: str) -> Sensor:
        try:
            return self._sensors[name]
        except KeyError:
            raise BadRequest(f"No valid sensor named {name}") from None


class Sensor:
    """One sensor: last values, and one of each second. ConfigError: its options are wrong."""

    def __init__(self, config: SensorConfig, capacity: int, templates: Templates) -> None:
        self.config, self.id = config, config.own_name
        self._capacity = capacity
        self._template = templates.compile(config.state_response_template)
        self.values: dict[str, float] = {}
        self.series: dict[str, deque[float]] = {}
        self._has_news = False
        self._parameters: list[dict[str, Any]] = []
        self.fields: list[tuple[AuxiliaryField, str]] = []  # with the value that each follows
        for option, text in config.free.items():
            details = dict(_pairs(line) for line in text.split("\n") if "=" in line)
            if option.startswith(PARAMETER):
                self._parameters.append({"name": option.removeprefix(PARAMETER), **details})
            else:
                self.fields.append(self._field(option, details))
        self._is_failing = False

    def _field(self, option: str, details: dict[str, str]) -> tuple[AuxiliaryField, str]:
        name = option.removeprefix(HISTORY_FIELD)
        parameter, strategy = details.get("parameter"), details.get("strategy", "basic")
        if parameter is None or strategy not in get_args(Strategy):
            raise ConfigError(
                "needs a parameter." if parameter is None else f"'{strategy[:40]}' is not a strategy.",
                section=self.config.section_name,
                option=option,
                remedy=f"Add 'parameter=NAME', and 'strategy=' one of {', '.join(get_args(Strategy))}.",
            )
        precision = details.get("precision", "")
        field = AuxiliaryField(
            f"sensor {self.id}",
            name,
            details.get("desc", f"{parameter} of {self.config.name or self.id}"),
            strategy,  # type: ignore[arg-type]
            units=details.get("units"),
            reset=(lambda: self.values.get(parameter)) if _is_true(details.get("init_tracker")) else None,
            excludes_paused=_is_true(details.get("exclude_paused")),
            reports_total=_is_true(details.get("report_total")),
            reports_maximum=_is_true(details.get("report_maximum")),
            precision=int(precision) if precision.isdecimal() else None,
        )
        return field, parameter

    def receiver(self, spawn: Any) -> Any:
        """What takes its messages."""
        return lambda payload: spawn(self.take(payload))

    async def take(self, payload: bytes) -> None:
        """Read a message. One that cannot be read is told of once, until the next good one."""
        try:
            await self._template.render({"payload": payload.decode("utf-8", "replace"), "set_result": self._set})
        except TemplateFailed as exc:
            log.log(logging.DEBUG if self._is_failing else logging.WARNING, "%s", exc)
            self._is_failing = True
        else:
            self._is_failing = False

    def _set(self, name: str, value: float) -> None:
        """`set_result` of the template."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"set_result: '{name}' must be a number")
        if name not in self.values and len(self.values) >= MAX_PARAMETERS:
            return
        if name not in self.series:
            self.series[name] = deque(maxlen=self._capacity)
        self.values[name] = value
        self._has_news = True
        for field, parameter in self.fields:
            if parameter == name:
                field.track(value)

    def sample(self) -> bool:
        """Keep the present values; whether there are new ones."""
        for name, value in self.values.items():
            self.series[name].append(value)
        has_news, self._has_news = self._has_news, False
        return has_news

    def info(self, is_extended: bool) -> SensorInfo:
        found: SensorInfo = {
            "id": self.id,
            "friendly_name": self.config.name or self.id,
            "type": self.config.type,
            "values": dict(self.values),
        }
        if is_extended:
            found["parameter_info"] = self._parameters
            found["history_fields"] = [
                {
                    "field": field.name,
                    "provider": field.provider,
                    "description": field.description,
                    "strategy": field.strategy,
                    "units": field.units,
                    "parameter": parameter,
                    "exclude_paused": field.excludes_paused,
                    "report_total": field.reports_total,
                    "report_maximum": field.reports_maximum,
                    "precision": field.precision,
                }
                for field, parameter in self.fields
            ]
        return found


def _pairs(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "yes", "on", "1")
