"""Logins with the passwords of a directory, against a small one that speaks LDAP (RFC 4511)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from moonfast.components import ldap
from tests.wire.running import Client, RpcError, free_port, running

pytest.importorskip("ldap3")

READER, ALICE, BOB = "cn=reader,dc=x", "cn=Alice,ou=people,dc=x", "cn=bob,ou=people,dc=x"
PASSWORDS = {READER: "read", ALICE: "wonder", BOB: "build"}
GROUPS = {ALICE: "cn=Printers,dc=x", BOB: "cn=others,dc=x"}

# tags of BER (X.690) as RFC 4511 uses them
INTEGER, TEXT, ENUMERATED, SEQUENCE, SET = 0x02, 0x04, 0x0A, 0x30, 0x31
BIND, BOUND, SEARCH, ENTRY, SEARCHED = 0x60, 0x61, 0x63, 0x64, 0x65
AND, OR, EQUAL = 0xA0, 0xA1, 0xA3


def take(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Tag and content of the first element, and what is behind it; None: it is not whole."""
    if len(data) < 2:
        return None
    size, at = data[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(data[2:at], "big")
    return (data[0], data[at : at + size], data[at + size :]) if len(data) >= at + size else None


def elements(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while (item := take(data)) is not None:
        found.append(item[:2])
        data = item[2]
    return found


def put(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


class Directory:
    """`asked` are the values that filters compare with; `is_silent`: it takes requests and says nothing."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.kinds: set[int] = set()  # of filters
        self.binds: list[str] = []
        self.is_silent = False
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data, bound = b"", ""
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                data += piece
                while not self.is_silent and (message := take(data)) is not None:
                    data = message[2]
                    (_, uid), (kind, content), *_ = elements(message[1])
                    if kind == BIND:
                        _, (_, name), (_, password) = elements(content)
                        self.binds.append(name.decode())
                        is_right = PASSWORDS.get(name.decode()) == password.decode()
                        bound = name.decode() if is_right else ""
                        writer.write(_message(uid, BOUND, _result(0 if is_right else 49)))
                    elif kind == SEARCH:
                        for found in self._find(elements(content)[6]) if bound == READER else ():
                            group = put(SEQUENCE, put(TEXT, b"memberOf"), put(SET, put(TEXT, GROUPS[found].encode())))
                            writer.write(_message(uid, ENTRY, put(TEXT, found.encode()) + put(SEQUENCE, group)))
                        writer.write(_message(uid, SEARCHED, _result(0)))
        writer.close()

    def _find(self, wanted: tuple[int, bytes]) -> list[str]:
        names = self._compared(*wanted)
        self.asked.append(names)
        lower = [name.lower() for name in names]
        return [dn for dn in (ALICE, BOB) if dn.partition(",")[0].removeprefix("cn=").lower() in lower]

    def _compared(self, kind: int, content: bytes) -> list[str]:
        self.kinds.add(kind)
        if kind in (AND, OR):
            return [name for item in elements(content) for name in self._compared(*item)]
        return [elements(content)[1][1].decode()] if kind == EQUAL else []


def _message(uid: bytes, kind: int, content: bytes) -> bytes:
    return put(SEQUENCE, put(INTEGER, uid), put(kind, content))


def _result(code: int) -> bytes:
    return put(ENUMERATED, bytes([code])) + put(TEXT, b"") + put(TEXT, b"")


@contextlib.asynccontextmanager
async def directory() -> AsyncIterator[Directory]:
    found = Directory()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


def config(port: int, more: str = "", default: str = "ldap") -> str:
    return (
        f"[authorization]\ntrusted_clients: 127.0.0.1\ndefault_source: {default}\n\n[ldap]\nldap_host: 127.0.0.1\n"
        f"ldap_port: {port}\nbase_dn: dc=x\nbind_dn: {READER}\nbind_password: read\n{more}\n"
    )


async def login(client: Client, username: str, password: str, **params: Any) -> Any:
    return await client.call("access.login", {"username": username, "password": password, **params})


async def refused(client: Client, username: str, password: str, **params: Any) -> int:
    with pytest.raises(RpcError) as caught:
        await login(client, username, password, **params)
    return caught.value.code  # type: ignore[no-any-return]


async def test_a_user_of_the_directory() -> None:
    async with directory() as server, running(config(server.port)) as served:
        client = await served.client()
        info = await client.call("access.info")
        assert (info["default_source"], info["available_sources"]) == ("ldap", ["moonraker", "ldap"])
        answer = await login(client, "alice", "wonder")
        assert (answer["username"], answer["source"]) == ("alice", "ldap")
        assert server.binds == [READER, ALICE]
        assert await client.wait_for("notify_user_created") == [{"username": "alice"}]
        assert (await login(client, "alice", "wonder", source="ldap"))["source"] == "ldap"
        for name, password in (("alice", "wrong"), ("alice", ""), ("nobody", "x"), ("", "x")):
            assert await refused(client, name, password) == 400, name
        assert await refused(client, "alice", "wonder", source="moonraker") == 400
        users = (await client.call("access.users.list"))["users"]
        assert [(item["username"], item["source"]) for item in users] == [("alice", "ldap")]


async def test_a_name_that_is_a_filter() -> None:
    """Every character that means something in a filter is only a character (RFC 4515 section 3)."""
    async with directory() as server, running(config(server.port)) as served:
        client = await served.client()
        for name in ("*", "a*", "alice)(cn=*", "x)(|(cn=alice", "\\2a", "alice\0"):
            assert await refused(client, name, "wonder") == 400
        assert server.kinds == {AND, EQUAL}  # nobody has added to the filter
        assert server.asked[2] == ["Person", "alice)(cn=*"]


async def test_only_members_of_the_group() -> None:
    more = "group_dn: cn=printers,dc=x"
    async with directory() as server, running(config(server.port, more)) as served:
        client = await served.client()
        assert await login(client, "alice", "wonder")
        assert await refused(client, "bob", "build") == 400
    async with directory() as server, running(config(server.port, more + "\ncheck_dn_case: True")) as served:
        assert await refused(await served.client(), "alice", "wonder") == 400


async def test_local_users_beside_it() -> None:
    async with directory() as server, running(config(server.port, default="moonraker")) as served:
        client = await served.client()
        await client.call("access.post_user", {"username": "me", "password": "secret"})
        assert (await login(client, "me", "secret"))["source"] == "moonraker"
        assert (await login(client, "alice", "wonder", source="ldap"))["source"] == "ldap"
        assert await refused(client, "me", "secret", source="ldap") == 400


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ldap3 forgets a refused socket
async def test_a_directory_that_is_away_silent_or_hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldap, "TIMEOUT_S", 1)
    async with running(config(free_port())) as served:
        assert await refused(await served.client(), "alice", "wonder") == 503
    async with directory() as server, running(config(server.port)) as served:
        client, other = await served.clients(2)
        server.is_silent = True
        waiting = await client.start_call("access.login", {"username": "alice", "password": "wonder"})
        async with asyncio.timeout(1):
            await other.call("server.info")  # nobody else waits
        with pytest.raises(RpcError) as caught:
            await waiting
        assert caught.value.code == 503
    wrong = config(1).replace("bind_password: read", "bind_password: wrong")
    async with directory() as server, running(wrong.replace("ldap_port: 1", f"ldap_port: {server.port}")) as served:
        assert await refused(await served.client(), "alice", "wonder") == 503
    gc.collect()  # here, not in a later test


async def test_settings_that_cannot_be() -> None:
    async with running(config(1, "user_filter: (cn=x)")) as served:
        info = await (await served.client()).call("server.info")
        assert info["failed_components"] == ["ldap"]
        assert "authorization" in info["components"]
        assert any("default_source" in text for text in info["warnings"])
