"""Programs that only root may run: with sudo(8), whose password may be in the configuration, or comes from a client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.errors import BadRequest, Forbidden, TemplateFailed, Unavailable
from moonfast.vocab import GET, POST

if TYPE_CHECKING:
    from moonfast.host.shell import Ended
    from moonfast.host.templates import Compiled

CHECK_TIMEOUT_S = 10.0
MAX_PASSWORD_CHARACTERS = 1024
MAX_REQUESTS = 10
WANTS_PASSWORD = "a password is required"


class SudoInfo(TypedDict):
    """`sudo_access` is null unless it was asked for; `request_messages` say what was refused for want of a password."""

    sudo_access: bool | None
    linux_user: str
    sudo_requested: bool
    request_messages: list[str]


class SudoPassword(TypedDict):
    sudo_responses: list[str]
    is_restarting: bool


class SudoAlert(TypedDict):
    sudo_requested: bool
    sudo_messages: list[str]


ALERT = notification("sudo_alert", SudoAlert, "Something needs the password for sudo, or nothing does any more.")


class Sudo:
    """`configured` is the password of the configuration; one from a client is kept until the server ends.

    `emit` tells clients that something was refused for want of a password, if they may give it.
    """

    def __init__(self, configured: Compiled | None, *, takes_passwords: bool, emit: Callable[[Any, Any], None]) -> None:
        self._configured, self._takes_passwords, self._emit = configured, takes_passwords, emit
        self._password: str | None = None
        self._requests: list[str] = []

    async def run(self, *program: str, timeout_s: float) -> Ended:
        """Run a program as root. Unavailable: the password of the configuration cannot be rendered."""
        ended = await self._run(*program, timeout_s=timeout_s)
        if self._takes_passwords and not ended.is_good and WANTS_PASSWORD in ended.errors:
            message = f"The password for sudo is needed to run: {' '.join(program)}"
            if message not in self._requests and len(self._requests) < MAX_REQUESTS:
                self._requests.append(message)
            self._tell()
        return ended

    def _tell(self) -> None:
        self._emit(ALERT, {"sudo_requested": bool(self._requests), "sudo_messages": list(self._requests)})

    async def _run(self, *program: str, timeout_s: float) -> Ended:
        from moonfast.host import shell

        if os.geteuid() == 0:
            return await shell.run(program, timeout_s=timeout_s)
        password = self._password
        if password is None and self._configured is not None:
            try:
                password = await self._configured.render()
            except TemplateFailed as exc:
                raise Unavailable(exc.message) from None
        if not password:
            return await shell.run(("sudo", "-n", *program), timeout_s=timeout_s)
        return await shell.run(("sudo", "-S", "-p", "", *program), timeout_s=timeout_s, given=password.encode() + b"\n")

    @endpoint(GET, "/machine/sudo/info", runs_as_task=True)
    async def info(self, call: Call, check_access: bool = False) -> SudoInfo:
        """Return the account of this server and, with `check_access`, whether it may run programs as root."""
        import pwd

        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # an account without a name
            user = str(os.geteuid())
        return {
            "sudo_access": (await self._run("true", timeout_s=CHECK_TIMEOUT_S)).is_good if check_access else None,
            "linux_user": user,
            "sudo_requested": bool(self._requests),
            "request_messages": list(self._requests),
        }

    @endpoint(POST, "/machine/sudo/password", runs_as_task=True)
    async def password(self, call: Call, password: str) -> SudoPassword:
        """Keep the password for sudo until the server ends.

        Error 403: this is off, as it is without `[machine] enable_sudo_password`. Error 400: sudo refuses the password.
        """
        if not password or len(password) > MAX_PASSWORD_CHARACTERS or "\n" in password:
            raise BadRequest(f"A password has 1 to {MAX_PASSWORD_CHARACTERS} characters, on one line")
        if not self._takes_passwords:
            raise Forbidden(
                "This server takes no passwords for sudo: set 'enable_sudo_password: True' in section [machine]"
            )
        from moonfast.host import shell

        # -k: what sudo remembers of the last time does not count
        check = ("sudo", "-k", "-S", "-p", "", "true")
        if not (await shell.run(check, timeout_s=CHECK_TIMEOUT_S, given=password.encode() + b"\n")).is_good:
            raise BadRequest("Sudo refuses this password: check it, and that this account may use sudo")
        self._password = password
        waiting, self._requests = self._requests, []
        if waiting:
            asyncio.get_running_loop().call_soon(self._tell)  # behind the answer
        again = ["What was refused for want of it can be done again now."] if waiting else []
        return {"sudo_responses": ["Sudo password successfully set.", *again], "is_restarting": False}
