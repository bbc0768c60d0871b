"""Services by supervisorctl(1), for containers in which Supervisor takes the place of systemd."""

from __future__ import annotations

import os

from moonfast.components.machine.providers.base import MAX_SERVICES, Action, Owner, PowerAction, ServiceState, States
from moonfast.components.machine.providers.programs import ACTION_TIMEOUT_S, LOOK_TIMEOUT_S, PolledProvider, refused
from moonfast.errors import BadRequest, Unavailable
from moonfast.host.shell import Ended, run

STATES = {
    "RUNNING": ServiceState(active_state="active", sub_state="running"),
    "STARTING": ServiceState(active_state="activating", sub_state="start"),
    "STOPPING": ServiceState(active_state="deactivating", sub_state="stop"),
    "STOPPED": ServiceState(active_state="inactive", sub_state="dead"),
    "EXITED": ServiceState(active_state="inactive", sub_state="exited"),
    "BACKOFF": ServiceState(active_state="activating", sub_state="auto-restart"),
    "FATAL": ServiceState(active_state="failed", sub_state="failed"),
    "UNKNOWN": ServiceState(active_state="failed", sub_state="unknown"),
}
"""Supervisor's words (its manual, "Process States") in those of systemd, which front ends know."""


class SupervisordCli(PolledProvider):
    """Processes of a group, `group:name`, are known by the name behind the colon."""

    def __init__(self, owner: Owner, config_path: str | None) -> None:
        super().__init__(owner)
        self._config_path = config_path
        self._full_names: dict[str, str] = {}
        self._pids: dict[int, str] = {}

    async def begin(self) -> None:
        ended = await self._run("status", timeout_s=LOOK_TIMEOUT_S)
        if not ended.output.strip():
            self.warnings = ["[machine] Supervisor does not answer: check 'supervisord_config_path' and its socket"]
        self._read(ended.output)

    async def look(self) -> None:
        self._read((await self._run("status", timeout_s=LOOK_TIMEOUT_S)).output)

    async def act(self, action: Action, name: str) -> None:
        ended = await self._run(action, self._full_names.get(name, name), timeout_s=ACTION_TIMEOUT_S)
        if "no such process" in ended.output.lower():
            raise BadRequest(f"Service '{name}' is unknown to Supervisor: add a [program:{name}] to its configuration")
        if not ended.is_good or "ERROR" in ended.output:
            raise (
                refused(ended, action, name)
                if not ended.output
                else Unavailable(f"Supervisor refuses to {action} '{name}': look at the log of this program")
            )
        self.hurry()

    async def power(self, action: PowerAction) -> None:
        raise BadRequest("Supervisor cannot shut down or reboot the computer: do it outside of this container")

    def own_service(self) -> str | None:
        return os.environ.get("SUPERVISOR_PROCESS_NAME")

    def service_of(self, pid: int) -> str | None:
        return self._pids.get(pid)

    async def _run(self, *words: str, timeout_s: float) -> Ended:
        chosen = ("-c", self._config_path) if self._config_path else ()
        return await run(("supervisorctl", *chosen, *words), timeout_s=timeout_s)

    def _read(self, text: str) -> None:
        """Lines "name  RUNNING  pid 12, uptime 0:01:00"."""
        found: States = {}
        pids: dict[int, str] = {}
        for line in text.splitlines()[: 10 * MAX_SERVICES]:
            full_name, state, *more = line.split() if len(line.split()) > 1 else ("", "")
            name = full_name.rpartition(":")[2]
            if state not in STATES or not self._owner.is_allowed(name):
                continue
            found[name] = STATES[state]
            self._full_names[name] = full_name
            if more[:1] == ["pid"] and len(more) > 1 and more[1].strip(",").isdigit():
                pids[int(more[1].strip(","))] = name
        self._pids = pids
        self.take(found)
