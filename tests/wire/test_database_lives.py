"""Random work on the database by several clients, with `kill -9` of the server at random moments.

What was acknowledged is there after the next start, what was not is there wholly or not at all, nothing else has
changed. `MOONFAST_LIVES=200` runs two hundred lives instead of a few; the seed is printed with a failure.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
from typing import Any

from tests.wire.site import Client
from tests.wire.test_killed import Killable, killable

LIVES = int(os.environ.get("MOONFAST_LIVES", "6"))
CLIENTS = 3
LONGEST_S = 0.15
ITEM = "/server/database/item"

Namespaces = dict[str, Any]


class Step:
    """One request, and what it does to a model. Parents and leaves have different names, so that none is in the way."""

    def __init__(self, chance: random.Random, namespace: str) -> None:
        self.namespace = namespace
        depth = chance.randrange(3)
        self.path = [f"p{chance.randrange(3)}" for _ in range(depth)] + [f"l{chance.randrange(4)}"]
        kind = chance.random()
        self.is_delete = kind < 0.3
        self.is_compaction = kind > 0.98
        self.value = chance.choice([None, True, 1.5, "x" * chance.randrange(3000), [1, {"a": "\u20ac"}], {"b": {}}])

    def request(self) -> bytes:
        if self.is_compaction:
            return b"POST /server/database/compact HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        if self.is_delete:
            target = f"{ITEM}?namespace={self.namespace}&key={'.'.join(self.path)}"
            return f"DELETE {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        body = json.dumps({"namespace": self.namespace, "key": ".".join(self.path), "value": self.value}).encode()
        head = (
            f"POST {ITEM} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def apply(self, model: Namespaces) -> int:
        """Do it to a model; the status that it is answered with."""
        if self.is_compaction:
            return 200
        found = model.setdefault(self.namespace, {})
        *parents, last = self.path
        for name in parents:
            if self.is_delete and name not in found:
                self._drop_empty(model)
                return 404
            found = found.setdefault(name, {})
        if not self.is_delete:
            found[last] = self.value
            return 200
        status = 200 if last in found else 404
        found.pop(last, None)
        self._drop_empty(model)
        return status

    def _drop_empty(self, model: Namespaces) -> None:
        """A namespace vanishes with its last key."""
        if not model[self.namespace]:
            del model[self.namespace]


class Worker:
    """A client with a namespace of its own. `model` has what was acknowledged, `open` what was not answered."""

    def __init__(self, chance: random.Random, number: int) -> None:
        self._chance, self.namespace = chance, f"n{number}"
        self.model: Namespaces = {}
        self.open: Step | None = None
        self.acknowledged = 0

    async def work(self, client: Client) -> None:
        """Send one request after the other, until the connection is lost."""
        try:
            while True:
                step = self.open = Step(self._chance, self.namespace)
                client.send(step.request())
                answer = await client.read()
                assert answer.status == step.apply(self.model), (step.path, step.is_delete, answer.status)
                self.open = None
                self.acknowledged += 1
        except (OSError, EOFError, IndexError):
            return

    def settle(self, stored: Any) -> None:
        """Compare with what is stored now, and go on from it."""
        done = copy.deepcopy(self.model)
        if self.open is not None:
            self.open.apply(done)
        candidates = [model.get(self.namespace) for model in (self.model, done)]
        assert stored in candidates, f"{self.namespace}: {stored} is neither {candidates[0]} nor {candidates[1]}"
        self.model = {} if stored is None else {self.namespace: stored}
        self.open = None


async def stored(server: Killable, namespace: str) -> Any:
    answer = await server.ask("GET", f"{ITEM}?namespace={namespace}")
    return answer["result"]["value"] if "result" in answer else None


async def test_what_was_acknowledged_outlives_every_kill() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    workers = [Worker(random.Random(chance.random()), number) for number in range(CLIENTS)]
    async with killable() as server:
        for life in range(LIVES):
            clients = [await server.connect() for _ in workers]
            tasks = [asyncio.create_task(worker.work(client)) for worker, client in zip(workers, clients, strict=True)]
            await asyncio.sleep(chance.random() * LONGEST_S)
            if life % 20 == 7:
                answer = await server.ask("POST", "/server/database/backup", b'{"filename": "lives.db"}')
                assert "result" in answer
            await server.kill()
            await asyncio.gather(*tasks)
            for client in clients:
                await client.close()
            await server.start()
            for worker in workers:
                worker.settle(await stored(server, worker.namespace))
            listed = (await server.ask("GET", "/server/database/list"))["result"]["namespaces"]
            assert {name for name in listed if name.startswith("n")} == {
                name for item in workers for name in item.model
            }
    assert all(worker.acknowledged > LIVES / 2 for worker in workers)
