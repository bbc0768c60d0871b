"""The page at "/" as it is served."""

from __future__ import annotations

import asyncio
import re

from moonfast.pages import FOLDER, load_pages
from tests.wire.raw import WAIT_S
from tests.wire.running import running

MAX_PAGE_BYTES = 40_000


async def fetch(port: int, target: str, method: str = "GET", headers: str = "") -> tuple[str, bytes]:

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode())
    async with asyncio.timeout(WAIT_S):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.decode(), body


async def test_every_file_is_served() -> None:
    async with running() as served:
        for path, page in load_pages().items():
            head, body = await fetch(served.port, path)
            assert head.startswith("HTTP/1.1 200"), path
            assert body == page.body
            assert f"Content-Type: {page.content_type}" in head
            assert "Content-Security-Policy: default-src 'self'" in head
            etag = re.search(r"ETag: (\S+)", head)
            assert etag is not None
            again, nothing = await fetch(served.port, path, headers=f"If-None-Match: {etag[1]}\r\n")
            assert again.startswith("HTTP/1.1 304")
            assert nothing == b""
            only_head, nothing = await fetch(served.port, path, "HEAD")
            assert f"Content-Length: {len(page.body)}" in only_head
            assert nothing == b""
        head, _ = await fetch(served.port, "/", "POST")
        assert head.startswith("HTTP/1.1 405")
        head, _ = await fetch(served.port, "/page/nosuch.js")
        assert head.startswith("HTTP/1.1 404")


async def test_under_a_prefix() -> None:
    async with running("[server]\nroute_prefix: printer1") as served:
        head, body = await fetch(served.port, "/printer1/")
        assert head.startswith("HTTP/1.1 200")
        moved, _ = await fetch(served.port, "/printer1")
        assert moved.startswith("HTTP/1.1 308")
        assert "\r\nLocation: /printer1/" in moved
        links = re.findall(r'(?:href|src)="([^"]+)"', body.decode())
        assert len(links) == 3
        for link in links:
            head, _ = await fetch(served.port, f"/printer1/{link}")
            assert head.startswith("HTTP/1.1 200"), link


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    total = 0
    for file in FOLDER.glob("*.*"):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        total += len(text)
        assert not re.search(r"https?://", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), file
        if file.suffix == ".html":
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text), file
    assert 5_000 < total < MAX_PAGE_BYTES
