"""Programs that only root may run: with sudo(8), whose password may be in the configuration, or comes from a client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.errors import BadRequest, Forbidden, TemplateFailed, Unavailable
from moonfast.vocab import GET, POST

if TYPE_CHECKING:
    from moonfast.host.shell import Ended
    from moonfast.host.templates import Compiled

CHECK_TIMEOUT_S = 10.0
MAX_PASSWORD_CHARACTERS = 1024


class SudoInfo(TypedDict):
    """`sudo_access` is null unless it was asked for; nothing here asks users for a password."""

    sudo_access: bool | None
    linux_user: str
    sudo_requested: bool
    request_messages: list[str]


class SudoPassword(TypedDict):
    sudo_responses: list[str]
    is_restarting: bool


class Sudo:
    """`configured` is the password of the configuration; one from a client is kept until the server ends."""

    def __init__(self, configured: Compiled | None, *, takes_passwords: bool) -> None:
        self._configured, self._takes_passwords = configured, takes_passwords
        self._password: str | None = None

    async def run(self, *program: str, timeout_s: float) -> Ended:
        """Run a program as root. Unavailable: the password of the configuration cannot be rendered."""
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
            "sudo_access": (await self.run("true", timeout_s=CHECK_TIMEOUT_S)).is_good if check_access else None,
            "linux_user": user,
            "sudo_requested": False,
            "request_messages": [],
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
        return {"sudo_responses": ["Sudo password successfully set."], "is_restarting": False}
