"""The page at "/" in a real browser, in front of the simulated printer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.browser.chromium import PROGRAM, WAIT_S, new_tab
from tests.wire.running import free_port

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timeout(120),
]
SHOTS = os.environ.get("MOONFAST_SCREENSHOTS")
"""A folder for pictures of the page, for people to look at."""


@contextlib.asynccontextmanager
async def simulated(folder: Path, prefix: str = "") -> AsyncIterator[str]:
    """A server with the simulated printer; gives its address."""
    port = free_port()
    (folder / "config").mkdir()
    text = f"[server]\nport: {port}\n" + (f"route_prefix: {prefix}\n" if prefix else "") + "[nosuch_section]\n"
    text += "[authorization]\ntrusted_clients: 127.0.0.1\n"
    (folder / "config" / "moonraker.conf").write_text(text)
    command = (sys.executable, "-m", "moonfast", "--simulate", "-d", str(folder))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/" + (f"{prefix}/" if prefix else "")
    finally:
        process.terminate()
        await process.wait()


PIXELS = """(() => {
  const canvas = document.getElementById("plot");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return data.some((value) => value !== 0);
})()"""


@pytest.mark.parametrize(("width", "is_dark"), [(360, False), (1280, True)])
async def test_the_page(tmp_path: Path, width: int, is_dark: bool) -> None:
    async with simulated(tmp_path) as url, new_tab() as tab:
        await tab.open(url, width, 800, is_dark=is_dark)
        await tab.until("document.getElementById('state')?.textContent === 'ready'")
        await tab.until("document.querySelectorAll('#sensors strong').length === 4")
        await tab.until(
            "[...document.querySelectorAll('#sensors strong')].every((item) => item.textContent.includes('°C'))"
        )
        await tab.until(PIXELS)
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert "nosuch_section" in await tab.run("document.getElementById('warnings').textContent")
        assert (
            await tab.run("document.getElementById('ws-address').textContent")
            == url.replace("http", "ws") + "websocket"
        )

        await tab.run("document.querySelector('#console button').click()")
        await tab.until("document.getElementById('answer').textContent.includes('moonfast_version')")
        await tab.run("document.getElementById('params').value = '{broken'")
        await tab.run("document.querySelector('#console button').click()")
        await tab.until("document.getElementById('params-error').textContent.includes('not JSON')")
        await tab.run("document.getElementById('method').value = 'printer.gcode.script'")
        await tab.run("""document.getElementById('params').value = '{"script": "M118 <b>hello</b>"}'""")
        await tab.run("document.getElementById('log-on').click()")
        await tab.run("document.querySelector('#console button').click()")
        await tab.until("document.getElementById('log').textContent.includes('<b>hello</b>')")
        assert await tab.run("document.querySelectorAll('#history li').length") == 2
        assert await tab.run("document.querySelectorAll('#methods option').length") > 20
        if SHOTS:
            await tab.run(
                "document.getElementById('method').value = 'server.info'; document.getElementById('params').value = ''"
            )
            await tab.run("document.querySelector('#console button').click()")
            await asyncio.sleep(2)
            await tab.screenshot(Path(SHOTS) / f"page_{width}_{'dark' if is_dark else 'light'}.png")
        assert tab.errors == []


async def test_it_comes_back_after_a_restart(tmp_path: Path) -> None:
    async with simulated(tmp_path, "printer1") as url, new_tab() as tab:
        await tab.open(url, 800, 800)
        await tab.until("document.getElementById('state')?.textContent === 'ready'")
        await tab.run("socket.addEventListener('close', () => { window.wasClosed = true; })")
        await tab.run("call('server.restart')")
        await tab.until("window.wasClosed")
        await tab.until("document.getElementById('link').textContent === 'connected'")
        await tab.until("document.getElementById('state').textContent === 'ready'")
        await tab.run("call('printer.emergency_stop')")
        await tab.until("document.getElementById('state').textContent === 'shutdown'")
        assert "FIRMWARE_RESTART" in await tab.run("document.getElementById('message').textContent")
