"""HTTPS: the same answers, renewed certificates, pairs that cannot be used."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
import warnings
from pathlib import Path

import pytest

from moonfast.errors import MoonfastError
from moonfast.transports.tls import Certificates
from tests.wire.site import Client, Served, serving

CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")


def make_pair(folder: Path, name: str, *options: str) -> None:
    """Write cert.pem and key.pem for a subject."""
    command = ["openssl", "req", "-x509", *CURVE, "-days", "2", "-subj", f"/CN={name}", *(options or ("-nodes",))]
    paths = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *paths], check=True, capture_output=True)


def certificates(folder: Path) -> Certificates:
    return Certificates(str(folder / "cert.pem"), str(folder / "key.pem"))


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def shown(client: Client) -> bytes:
    found = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert isinstance(found, bytes)
    return found


async def ask(served: Served) -> bytes:
    """Ask once on a new connection; return the certificate shown."""
    client = await served.client(client_context())
    assert (await client.get("/who")).json["result"]["secure"] is True
    return shown(client)


async def test_requests_over_tls(tmp_path: Path) -> None:
    make_pair(tmp_path, "one")
    pair = certificates(tmp_path)
    pair.start()
    try:
        async with serving(pair.context) as served:
            client = await served.client(client_context())
            assert (await client.get("/echo?a=1")).json == {"result": {"a": "1"}}
            assert len((await client.get("/big?size=3000000")).body) == 3000013
            body = b'{"a":"%b"}' % (b"x" * 300_000)
            assert len((await client.post("/echo", "application/json", body)).body) > 300_000
            assert client.writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
            answer = await client.ask(b"garbage\r\n\r\n")
            assert answer.status == 400
            await client.close()
            old = client_context()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                old.maximum_version = ssl.TLSVersion.TLSv1_1
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, OSError)):
                await served.client(old)
    finally:
        pair.stop()


async def test_renewal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_pair(tmp_path, "one")
    pair = certificates(tmp_path)
    pair.start()
    try:
        async with serving(pair.context) as served:
            first = await ask(served)
            assert not pair.reload_if_changed()
            make_pair(tmp_path, "two")
            assert pair.reload_if_changed()
            second = await ask(served)
            assert second != first

            caplog.set_level(logging.WARNING)
            for damage in (b"no certificate", b""):
                (tmp_path / "cert.pem").write_bytes(damage)
                caplog.clear()
                assert not pair.reload_if_changed()
                assert not pair.reload_if_changed()
                assert len(caplog.records) == 1
                assert await ask(served) == second
            make_pair(tmp_path, "three")
            assert pair.reload_if_changed()
            assert await ask(served) != second
    finally:
        pair.stop()


@pytest.mark.parametrize("fault", ["missing", "no key", "text", "other key", "password"])
async def test_pairs_that_cannot_be_used(tmp_path: Path, fault: str) -> None:
    if fault != "missing":
        make_pair(tmp_path, "one", *(("-passout", "pass:secret") if fault == "password" else ()))
    if fault == "no key":
        (tmp_path / "key.pem").unlink()
    elif fault == "text":
        (tmp_path / "cert.pem").write_text("no certificate")
    elif fault == "other key":
        certificate = (tmp_path / "cert.pem").read_bytes()
        make_pair(tmp_path, "two")
        (tmp_path / "cert.pem").write_bytes(certificate)
    pair = certificates(tmp_path)
    try:
        with pytest.raises(MoonfastError) as caught:
            pair.start()
        assert "TLS" in str(caught.value)
    finally:
        pair.stop()
