"""Requests to other servers: what is sent, what comes back, and what does not."""

from __future__ import annotations

import pytest

from moonfast.host.http_client import HttpClient, RequestError
from tests.wire.peer import peer


async def test_what_is_sent_and_answered() -> None:
    async with peer() as other:
        url = other.put("/a?b=c", b'{"d": 1}', headers="X-Kind: e\r\n").replace("//", "//u%40x:p@")
        found = await HttpClient().request("PUT", url, headers={"X-Own": "f"}, body=b"text", timeout_s=5)
        assert (found.status, found.headers["x-kind"], found.json(), found.text) == (200, "e", {"d": 1}, '{"d": 1}')
        head, _, body = other.requests[0].partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"PUT /a?b=c HTTP/1.1"
        assert b"X-Own: f" in lines
        assert b"Authorization: Basic dUB4OnA=" in lines
        assert body == b"text"


async def test_an_answer_that_is_not_json() -> None:
    async with peer() as other:
        found = await HttpClient().get(other.put("/a", b"<html>"), timeout_s=5)
        with pytest.raises(RequestError, match="not JSON"):
            found.json()


async def test_no_more_is_read_than_asked_for() -> None:
    async with peer() as other:
        found = await HttpClient().get(other.put("/a", b"x" * 1000), timeout_s=5, max_bytes=10)
        assert found.body == b"x" * 10


async def test_an_answer_that_is_cut_short() -> None:
    async with peer() as other:
        url = other.put("/a", b"half")
        other.answers["/a"] = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"
        with pytest.raises(RequestError, match="cut short"):
            await HttpClient().get(url, timeout_s=5)


async def test_redirects_are_followed_to_the_same_server_only() -> None:
    async with peer() as other, peer() as stranger:
        target = stranger.put("/secret", b"secret")
        other.put("/end", b"end")
        away = other.put("/away", status="302 Found", headers=f"Location: {target}\r\n")
        home = other.put("/home", status="302 Found", headers="Location: /end\r\n")
        endless = other.put("/endless", status="302 Found", headers="Location: /endless\r\n")
        client = HttpClient()
        assert (await client.get(away, timeout_s=5)).status == 302
        assert (await client.request("GET", home, timeout_s=5, follow=2)).body == b"end"
        with pytest.raises(RequestError, match="another server"):
            await client.request("GET", away, timeout_s=5, follow=2)
        with pytest.raises(RequestError, match="too many"):
            await client.request("GET", endless, timeout_s=5, follow=2)
        assert stranger.asked == []


@pytest.mark.parametrize("is_in_body", [False, True])
async def test_a_server_that_never_ends(is_in_body: bool) -> None:
    async with peer() as other:
        other.dripping["/slow"] = is_in_body
        with pytest.raises(RequestError, match="in time"):
            await HttpClient().get(f"{other.url}/slow", timeout_s=0.2)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/", "http://", "http://[1", "http://a:b/", "x", "http://127.0.0.1:1/"]
)
async def test_what_cannot_be_asked(url: str) -> None:
    with pytest.raises(RequestError):
        await HttpClient().get(url, timeout_s=2)
