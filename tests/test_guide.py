"""The snippets of moonraker.conf in the guide: each is understood in full, and a server runs with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.wire.running import running

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guide"
SNIPPET = re.compile(r"^```ini\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(text, id=f"{page.stem}{number}")
    for page in sorted(GUIDE.glob("*.md"))
    for number, text in enumerate(SNIPPET.findall(page.read_text()), 1)
]
SECRET = re.compile(r"secrets\.(\w+)\.(\w+)")
SECTION = re.compile(r"^\[(.*?)\]", re.MULTILINE)


def test_there_are_snippets() -> None:
    assert SNIPPETS


@pytest.mark.parametrize("text", SNIPPETS)
async def test_a_server_runs_with_it(text: str, tmp_path: Path) -> None:
    secrets: dict[str, dict[str, str]] = {}
    for section, option in SECRET.findall(text):
        secrets.setdefault(section, {})[option] = "secret"
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps(secrets))
    file.chmod(0o600)
    async with running(f"{text}\n[secrets]\nsecrets_path: {file}\n") as served:
        client = await served.unix_client()
        info = await client.call("server.info")
        assert info["failed_components"] == []
        assert [item for item in info["warnings"] if "section" in item or "option" in item] == []
        config = await client.call("server.config")
        assert set(SECTION.findall(text)) <= set(config["config"])
