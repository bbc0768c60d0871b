"""Logins with the passwords of a real directory: OpenLDAP's slapd, on a free port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wire.running import free_port, running, until
from tests.wire.test_ldap import login, refused

pytest.importorskip("ldap3")
SLAPD = shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin:/usr/libexec")
LDAPADD = shutil.which("ldapadd")
pytestmark = pytest.mark.skipif(not (SLAPD and LDAPADD), reason="slapd and ldapadd are not installed")

ROOT, ROOT_PASSWORD = "cn=admin,dc=x", "root"
READER_DN, READER_PASSWORD = "cn=reader,dc=x", "re ad"
SCHEMAS = ("core", "cosine", "inetorgperson")
MODULES = Path("/usr/lib/ldap")
# `slapd` of Debian has its backend and memberOf as modules; nobody but the reader may search
CONFIG = """
{schemas}
modulepath {modules}
moduleload back_mdb
moduleload memberof
pidfile {folder}/slapd.pid
argsfile {folder}/slapd.args
{tls}
database mdb
suffix "dc=x"
directory {folder}/data
rootdn "{root}"
rootpw {root_password}
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{reader}" read by self read by * none
"""
PEOPLE = f"""
dn: dc=x
objectClass: domain
dc: x

dn: ou=people,dc=x
objectClass: organizationalUnit
ou: people

dn: {READER_DN}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: {READER_PASSWORD}

dn: cn=alice,ou=people,dc=x
objectClass: inetOrgPerson
cn: alice
sn: A
uid: al
userPassword: wonder

dn: cn=b(o)b*,ou=people,dc=x
objectClass: inetOrgPerson
cn: b(o)b*
sn: B
uid: bob
userPassword: build

dn: cn=twin,ou=people,dc=x
objectClass: inetOrgPerson
cn: twin
sn: T
userPassword: one

dn: cn=twin,dc=x
objectClass: inetOrgPerson
cn: twin
sn: T
userPassword: one

dn: cn=Printers,dc=x
objectClass: groupOfNames
cn: Printers
member: cn=alice,ou=people,dc=x
"""


class Slapd:
    """The directory, with what PEOPLE says in it. It can be ended and started again."""

    def __init__(self, folder: Path, has_tls: bool) -> None:
        assert SLAPD is not None
        self.port = free_port()
        self._folder = folder
        (folder / "data").mkdir()
        tls = f"TLSCertificateFile {folder}/cert.pem\nTLSCertificateKeyFile {folder}/key.pem" if has_tls else ""
        schemas = "\n".join(f"include /etc/ldap/schema/{name}.schema" for name in SCHEMAS)
        names = {"root": ROOT, "root_password": ROOT_PASSWORD, "reader": READER_DN}
        text = CONFIG.format(schemas=schemas, modules=MODULES, folder=folder, tls=tls, **names)
        (folder / "slapd.conf").write_text(text)
        if has_tls:
            make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
            files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
            subprocess.run([*make, *files], check=True, capture_output=True)
        self.url = f"ldap{'s' if has_tls else ''}://127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        assert SLAPD is not None
        command = [SLAPD, "-f", str(self._folder / "slapd.conf"), "-h", self.url, "-d", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await until(self._listens)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def fill(self) -> None:
        assert LDAPADD is not None
        command = [LDAPADD, "-x", "-H", self.url, "-D", ROOT, "-w", ROOT_PASSWORD]
        done = subprocess.run(
            command, input=PEOPLE.encode(), capture_output=True, env={"LDAPTLS_REQCERT": "never"}, timeout=20
        )
        assert done.returncode == 0, done.stderr

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


@contextlib.asynccontextmanager
async def slapd(folder: Path, has_tls: bool = False) -> AsyncIterator[Slapd]:
    found = Slapd(folder, has_tls)
    try:
        await found.start()
        await asyncio.to_thread(found.fill)
        yield found
    finally:
        await asyncio.to_thread(found.end)


def config(
    server: Slapd, more: str = "", reader: str = f"bind_dn: {READER_DN}\nbind_password: {READER_PASSWORD}"
) -> str:
    return (
        "[authorization]\ntrusted_clients: 127.0.0.1\ndefault_source: ldap\n\n[ldap]\nldap_host: 127.0.0.1\n"
        f"ldap_port: {server.port}\nbase_dn: dc=x\n{reader}\n{more}\n"
    )


async def test_users(tmp_path: Path) -> None:
    async with slapd(tmp_path) as server, running(config(server)) as served:
        client = await served.client()
        answer = await login(client, "alice", "wonder")
        assert (answer["username"], answer["source"]) == ("alice", "ldap")
        assert (await login(client, "b(o)b*", "build"))["username"] == "b(o)b*"
        for name, password in (
            ("alice", "wrong"),
            ("alice", ""),
            ("a*", "wonder"),
            ("*", "wonder"),
            ("alice)(cn=*", "wonder"),
            ("nobody", "x"),
            ("twin", "one"),  # two have this name
            ("reader", READER_PASSWORD),  # no person
        ):
            assert await refused(client, name, password) == 400, name


async def test_the_group(tmp_path: Path) -> None:
    async with slapd(tmp_path) as server:
        async with running(config(server, "group_dn: cn=printers,dc=x")) as served:
            client = await served.client()
            assert await login(client, "alice", "wonder")
            assert await refused(client, "b(o)b*", "build") == 400
        async with running(config(server, "group_dn: cn=printers,dc=x\ncheck_dn_case: True")) as served:
            assert await refused(await served.client(), "alice", "wonder") == 400


async def test_another_filter(tmp_path: Path) -> None:
    async with slapd(tmp_path) as server, running(config(server, "user_filter: (uid=USERNAME)")) as served:
        client = await served.client()
        assert (await login(client, "bob", "build"))["username"] == "bob"
        assert await refused(client, "alice", "wonder") == 400


async def test_searching_as_nobody_and_with_a_wrong_password(tmp_path: Path) -> None:
    async with slapd(tmp_path) as server:
        async with running(config(server, reader="")) as served:  # nobody sees nothing here
            assert await refused(await served.client(), "alice", "wonder") == 400
        wrong = f"bind_dn: {READER_DN}\nbind_password: wrong"
        async with running(config(server, reader=wrong)) as served:
            assert await refused(await served.client(), "alice", "wonder") == 503


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_over_tls(tmp_path: Path) -> None:
    async with slapd(tmp_path, has_tls=True) as server, running(config(server, "ldap_secure: True")) as served:
        client = await served.client()
        assert await login(client, "alice", "wonder")
        assert await refused(client, "alice", "wrong") == 400


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ldap3 forgets a refused socket
async def test_while_it_is_away(tmp_path: Path) -> None:
    async with slapd(tmp_path) as server, running(config(server)) as served:
        client = await served.client()
        server.end()
        assert await refused(client, "alice", "wonder") == 503
        gc.collect()  # here, not in a later test
        await server.start()
        assert await login(client, "alice", "wonder")
