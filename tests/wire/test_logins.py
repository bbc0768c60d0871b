"""Logins on real sockets: what each credential opens, and that it opens nothing any more once it is revoked."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

import pytest

from moonfast.access import passwords
from moonfast.config.load import load
from moonfast.server import Server
from tests.wire.raw import CLOSE
from tests.wire.running import RpcError, Running, WebSocketClient, make_options, running, until
from tests.wire.site import Client, Response

STRANGER = "X-Forwarded-For: 203.0.113.9\r\n"
FORCED = "[authorization]\ntrusted_clients:\n    127.0.0.1\nforce_logins: True\n"


class Place:
    """A server, and clients of it: `ask` is a stranger unless it is told otherwise."""

    def __init__(self, served: Running, client: Client) -> None:
        self.served, self.client = served, client

    async def ask(
        self, method: str, target: str, body: Any = None, headers: str = STRANGER, token: str = "", key: str = ""
    ) -> Response:
        import json

        content = b"" if body is None else json.dumps(body).encode()
        if token:
            headers += f"Authorization: Bearer {token}\r\n"
        if key:
            headers += f"X-Api-Key: {key}\r\n"
        lines = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return await self.client.ask(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}{lines}\r\n".encode() + content
        )

    async def user(self, name: str = "me", password: str = "secret") -> dict[str, Any]:
        """Make an account, from this machine."""
        answer = await self.ask("POST", "/access/user", {"username": name, "password": password}, headers="")
        assert answer.status == 200, answer
        result: dict[str, Any] = answer.json["result"]
        return result

    async def may(self, **credential: str) -> bool:
        """Whether a stranger may use something with a credential."""
        answer = await self.ask("GET", "/server/files/roots", **credential)
        assert answer.status in (200, 401)
        return answer.status == 200

    async def stranger(self, query: str = "", **headers: str) -> WebSocketClient:
        extra = {"X-Forwarded-For": "203.0.113.9", **headers}
        self.served.url = self.served.url.partition("?")[0] + query
        return await self.served.client(additional_headers=extra)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that take no time."""
    monkeypatch.setattr(passwords, "SCRYPT_N", 16)
    monkeypatch.setattr(passwords, "PBKDF2_ROUNDS", 10)


class place:
    def __init__(self, config: str = "") -> None:
        self._running = running(config)

    async def __aenter__(self) -> Place:
        served = await self._running.__aenter__()
        self._client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
        return Place(served, self._client)

    async def __aexit__(self, *error: Any) -> None:
        await self._client.close()
        await self._running.__aexit__(*error)


async def refused(call: Any) -> tuple[int, Any]:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value.code, caught.value.data


async def test_every_way_to_show_who_one_is(quick: None) -> None:
    async with place() as here:
        assert not await here.may()
        made = await here.user()
        key = (await here.ask("GET", "/access/api_key", headers="")).json["result"]
        assert await here.may(token=made["token"])
        assert await here.may(key=key)
        assert not await here.may(token=made["refresh_token"])
        assert not await here.may(token=key)
        assert not await here.may(key=made["token"])
        assert await here.may(token=" ") is False  # nothing given
        answer = await here.ask("GET", f"/server/files/roots?access_token={made['token']}")
        assert answer.status == 200
        oneshot = (await here.ask("GET", "/access/oneshot_token", token=made["token"])).json["result"]
        assert (await here.ask("GET", f"/server/files/roots?token={oneshot}")).status == 200
        assert (await here.ask("GET", f"/server/files/roots?token={oneshot}")).status == 401
        who = (await here.ask("GET", "/access/user", token=made["token"])).json["result"]
        assert who["username"] == "me"
        assert (await here.ask("GET", "/access/user", key=key)).json["result"]["username"] == "_API_KEY_USER_"
        assert (await here.ask("GET", "/access/user", headers="")).json["result"]["username"] == "_TRUSTED_USER_"


async def test_one_request_says_nothing_about_the_next(quick: None) -> None:
    """The connection is the same: what it may is what each request shows."""
    async with place() as here:
        made = await here.user()
        for _ in range(3):
            assert await here.may(token=made["token"])
            assert not await here.may()
            assert not await here.may(token=made["token"] + "x")
        assert (await here.ask("GET", "/server/files/roots", headers="")).status == 200


async def test_a_wrong_credential_costs_a_trusted_address_its_trust_and_a_blank_one_nothing(quick: None) -> None:
    async with place() as here:
        for headers in ("X-Api-Key: wrong\r\n", "Authorization: Bearer a.b.c\r\n"):
            answer = await here.ask("GET", "/server/files/roots", headers=headers)
            assert answer.status == 401
            assert answer.json["error"]["message"] == "Unauthorized"
            assert answer.json["error"]["data"]["reason"] in ("invalid_api_key", "invalid_token")
            assert answer.json["error"]["data"]["remedy"]
            assert (await here.ask("GET", "/access/info", headers=headers)).status == 200  # open to anyone
        for headers in ("X-Api-Key: \r\n", "Authorization: Bearer \r\n", "Authorization: Basic abc\r\n"):
            assert (await here.ask("GET", "/server/files/roots", headers=headers)).status == 200


@pytest.mark.parametrize("how", ["logout", "password", "delete"])
async def test_whatever_ends_a_login_ends_it_at_once_and_everywhere(quick: None, how: str) -> None:
    async with place() as here:
        made, other = await here.user(), await here.user("other")
        token = made["token"]
        oneshot = (await here.ask("GET", "/access/oneshot_token", token=token)).json["result"]
        mine = await here.stranger(f"?access_token={token}")
        identified = await here.stranger()
        params = {"client_name": "x", "version": "1", "type": "other", "url": "u", "access_token": token}
        await identified.call("server.connection.identify", params)
        others = await here.stranger(f"?access_token={other['token']}")
        local = await here.served.client()
        await mine.subscribe({"toolhead": None})
        if how == "logout":
            answer = await mine.call("access.logout")
            assert answer == {"username": "me", "action": "user_logged_out"}
            assert await mine.wait_for("notify_user_logged_out") == [{"username": "me"}]
        elif how == "password":
            body = {"password": "secret", "new_password": "other"}
            assert (await here.ask("POST", "/access/user/password", body, token=token)).status == 200
        else:
            assert (await here.ask("DELETE", "/access/user", {"username": "me"}, headers="")).status == 200
            assert await mine.wait_for("notify_user_deleted") == [{"username": "me"}]
        assert not await here.may(token=token)
        assert (await here.ask("GET", f"/server/files/roots?token={oneshot}")).status == 401
        body = {"refresh_token": made["refresh_token"]}
        assert (await here.ask("POST", "/access/refresh_jwt", body)).status == 401
        for socket in (mine, identified):
            assert (await refused(socket.call("server.files.roots")))[0] == -32602
            assert not socket.is_closed
        count = len(mine.of("notify_status_update"))
        here.served.klippy.push({"toolhead": {"homed_axes": "xyz"}, "webhooks": {"state_message": "x"}})
        for socket in (others, local):
            assert await socket.call("server.files.roots")
        assert len(mine.of("notify_status_update")) == count
        assert await here.may(token=other["token"])


async def test_a_socket_logs_in(quick: None) -> None:
    async with place() as here:
        await here.user()
        socket = await here.stranger()
        assert await refused(socket.call("server.info")) == (
            -32602,
            {
                "reason": "login_required",
                "remedy": "203.0.113.9 is not a trusted address: add it, or its network, to trusted_clients in the "
                "section [authorization]",
            },
        )
        answer = await socket.call("access.login", {"username": "me", "password": "secret"})
        assert answer["action"] == "user_logged_in"
        assert (await socket.call("access.get_user"))["username"] == "me"
        await here.user("second")
        assert await socket.wait_for("notify_user_created") == [{"username": "second"}]


async def test_a_socket_identifies_itself_with_something_wrong(quick: None) -> None:
    async with place() as here:
        local = await here.served.client()
        params = {"client_name": "x", "version": "1", "type": "other", "url": "u"}
        assert (await refused(local.call("server.connection.identify", {**params, "api_key": "bad"})))[0] == -32602
        assert (await refused(local.call("server.files.roots")))[0] == -32602
        blank = await here.served.client()
        await blank.call("server.connection.identify", {**params, "api_key": "", "access_token": " "})
        assert await blank.call("server.files.roots")


async def test_a_handshake_with_something_wrong(quick: None) -> None:
    from websockets.exceptions import InvalidStatus

    async with place() as here:
        for query, headers in (("?token=ABC", {}), ("", {"X-Api-Key": "bad"}), ("?access_token=a.b.c", {})):
            with pytest.raises(InvalidStatus) as caught:
                await here.stranger(query, **headers)
            assert caught.value.response.status_code == 401
        assert (await here.ask("GET", "/klippysocket")).status == 401  # no way around the checks


async def test_forced_logins(quick: None) -> None:
    async with place(FORCED) as here:
        before = await here.served.client()
        assert await before.call("server.files.roots")
        assert (await here.ask("GET", "/access/info", headers="")).json["result"]["login_required"] is False
        made = await here.user()
        assert (await here.ask("GET", "/server/files/roots", headers="")).status == 401
        await until(lambda: not before_is_authorized(here))
        assert (await refused(before.call("server.files.roots")))[0] == -32602
        info = (await here.ask("GET", "/access/info", headers="")).json["result"]
        assert (info["login_required"], info["trusted"]) == (True, True)
        assert await here.may(token=made["token"])
        unix = await here.served.unix_client()
        assert await unix.call("server.files.roots")  # the file system has let it in
        await unix.call("access.delete_user", {"username": "me"})
        assert (await here.ask("GET", "/server/files/roots", headers="")).status == 200
        assert await before.call("server.files.roots")


def before_is_authorized(here: Place) -> bool:
    return any(item.call.is_authorized and item.call.address for item in here.served.server.hub.connections.values())


async def test_the_key(quick: None) -> None:
    async with place() as here:
        key = (await here.ask("GET", "/access/api_key", headers="")).json["result"]
        socket = await here.stranger(**{"X-Api-Key": key})
        assert await socket.call("server.files.roots")
        fresh = (await here.ask("POST", "/access/api_key", key=key)).json["result"]
        assert fresh != key
        assert not await here.may(key=key)
        assert await here.may(key=fresh)
        assert (await refused(socket.call("server.files.roots")))[0] == -32602
    async with place("[authorization]\ntrusted_clients:\n    127.0.0.1\nenable_api_key: False\n") as here:
        key = (await here.ask("GET", "/access/api_key", headers="")).json["result"]
        answer = await here.ask("GET", "/server/files/roots", key=key)
        assert (answer.status, answer.json["error"]["data"]["reason"]) == (401, "api_key_disabled")


async def test_guessing(quick: None) -> None:
    config = "[authorization]\ntrusted_clients:\n    127.0.0.1\nmax_login_attempts: 2\n"
    async with place(config) as here:
        await here.user()
        wrong, right = {"username": "me", "password": "x"}, {"username": "me", "password": "secret"}
        for _ in range(2):
            assert (await here.ask("POST", "/access/login", wrong)).status == 400
        answer = await here.ask("POST", "/access/login", right)
        assert (answer.status, answer.json["error"]["data"]["reason"]) == (401, "too_many_attempts")
        other = "X-Forwarded-For: 203.0.113.10\r\n"
        assert (await here.ask("POST", "/access/login", right, headers=other)).status == 200
        nobody = await here.ask("POST", "/access/login", {"username": "nobody", "password": "x"}, headers=other)
        known = await here.ask("POST", "/access/login", wrong, headers=other)
        assert nobody.json == known.json  # it tells nobody who exists


async def test_what_cannot_be(quick: None) -> None:
    async with place() as here:
        await here.user()
        cases: list[tuple[str, str, Any]] = [
            ("POST", "/access/user", {"username": "me", "password": "x"}),
            ("POST", "/access/user", {"username": "_API_KEY_USER_", "password": "x"}),
            ("POST", "/access/user", {"username": "", "password": "x"}),
            ("POST", "/access/user", {"username": "a\nb", "password": "x"}),
            ("POST", "/access/user", {"username": "x" * 300, "password": "x"}),
            ("POST", "/access/user", {"username": "new", "password": ""}),
            ("POST", "/access/user", {"username": "new", "password": "x" * 2000}),
            ("DELETE", "/access/user", {"username": "nobody"}),
            ("DELETE", "/access/user", {"username": "_TRUSTED_USER_"}),
            ("POST", "/access/logout", {}),
            ("POST", "/access/user/password", {"password": "secret", "new_password": "x"}),
            ("POST", "/access/login", {"username": "me", "password": "secret", "source": "nowhere"}),
            ("POST", "/access/login", {"username": "me", "password": "x" * 5000}),
        ]
        for method, target, body in cases:
            answer = await here.ask(method, target, body, headers="")
            assert answer.status == 400, (target, body)
        assert len((await here.ask("GET", "/access/users/list", headers="")).json["result"]["users"]) == 1


async def test_accounts_outlive_the_server_and_old_ones_are_known(quick: None) -> None:
    salt = bytes(range(32))
    stored = hashlib.pbkdf2_hmac("sha256", b"old", salt, passwords.PBKDF2_ROUNDS).hex()
    record = {"username": "old", "password": stored, "salt": salt.hex(), "source": "moonraker", "created_on": 5.0}
    config = "[authorization]\ntrusted_clients:\n    127.0.0.1\nrehash_passwords: True\n"
    async with place(config) as here:
        made = await here.user()
        key = (await here.ask("GET", "/access/api_key", headers="")).json["result"]
        await here.served.server._database.namespace("authorized_users").save("old", record)
        await here.served.close_clients()
        await here.served.server.stop()
        options = make_options(here.served.data_path)
        again = Server(options, load(options.config_file, options.data_path))
        await again.start()
        try:
            later = Place(here.served, Client(*await asyncio.open_connection("127.0.0.1", here.served.port)))
            assert await later.may(token=made["token"])
            assert await later.may(key=key)
            for _ in range(2):
                answer = await later.ask("POST", "/access/login", {"username": "old", "password": "old"})
                assert answer.status == 200
            kept = again._database.namespace("authorized_users").get("old")
            assert kept["password"].startswith("scrypt$")
            assert kept["created_on"] == 5.0
            await later.client.close()
        finally:
            await again.stop()


async def test_no_secret_reaches_the_log(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with place() as here:
            made = await here.user("me", "hush-hush")
            await here.ask("POST", "/access/login", {"username": "me", "password": "hush-wrong"})
            await here.ask("GET", f"/server/nothing?access_token={made['token']}")
            key = (await here.ask("GET", "/access/api_key", headers="")).json["result"]
            await here.ask("GET", "/server/files/roots", key=key)
    text = caplog.text
    for secret in ("hush", made["token"], made["refresh_token"], key):
        assert secret not in text


async def test_strangers_do_not_take_all_places(quick: None) -> None:
    from websockets.exceptions import InvalidStatus

    config = "[server]\nmax_websocket_connections: 20\n[authorization]\ntrusted_clients:\n    127.0.0.1\n"
    async with place(config) as here:
        made = await here.user()
        first, _ = [await here.stranger() for _ in range(2)]
        with pytest.raises(InvalidStatus) as caught:
            await here.stranger()
        assert caught.value.response.status_code == 503
        assert await (await here.stranger(f"?access_token={made['token']}")).call("server.files.roots")
        await first.call("access.login", {"username": "me", "password": "secret"})
        assert await here.stranger()  # it is a stranger no more: there is a place again


async def test_a_bridge_to_klippy_ends_with_the_login(quick: None) -> None:
    async with place() as here:
        made, other = await here.user(), await here.user("other")
        mine = await here.served.raw(f"/klippysocket?access_token={made['token']}", headers=STRANGER)
        others = await here.served.raw(f"/klippysocket?access_token={other['token']}", headers=STRANGER)
        for bridge in (mine, others):
            await bridge.send_json({"id": 1, "method": "info"})
            await bridge.recv()
        assert (await here.ask("POST", "/access/logout", token=made["token"])).status == 200
        assert (await mine.recv()).opcode == CLOSE
        await others.send_json({"id": 2, "method": "info"})
        assert (await others.recv()).opcode != CLOSE
