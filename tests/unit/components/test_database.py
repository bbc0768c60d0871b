"""Paths into the values of a namespace, against a dict."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonfast.codec import decode
from moonfast.components import database as module
from moonfast.components.database import Items, parts_of
from moonfast.errors import BadRequest, NotFound, PayloadTooLarge
from moonfast.storage.database import Database


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Database, Items]]:
    database = Database(folder)
    await database.start()
    try:
        yield database, Items(database)
    finally:
        await database.stop()


def answered(item: Any) -> Any:
    return decode(item)


PATHS = st.lists(st.sampled_from(["a", "b", "c.d"]), min_size=1, max_size=3)
VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.just("x"),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2) | st.lists(inner, max_size=2),
    max_leaves=4,
)
STEPS = st.lists(st.tuples(st.just("write"), PATHS, VALUES) | st.tuples(st.just("remove"), PATHS), max_size=12)
MISSING: Any = object()


def model_get(model: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(model, dict) or part not in model:
            return MISSING
        model = model[part]
    return model


def model_write(model: dict[str, Any], path: list[str], value: Any) -> bool:
    changed = copy.deepcopy(model)
    inner: Any = changed
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            return False
    inner[path[-1]] = copy.deepcopy(value)
    model.clear()
    model.update(changed)
    return True


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_like_a_dict(steps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    import asyncio

    async def run() -> None:
        model: dict[str, Any] = {}
        async with opened(tmp_path_factory.mktemp("db")) as (database, items):
            for step in steps:
                path = step[1]
                if step[0] == "write":
                    if model_write(model, path, step[2]):
                        answer = answered(await items.write("ns", path, step[2]))
                        assert answer == {"namespace": "ns", "key": path, "value": step[2]}
                    else:
                        with pytest.raises(BadRequest, match="is not a dictionary object"):
                            await items.write("ns", path, step[2])
                elif (expected := model_get(model, path)) is MISSING:
                    with pytest.raises(NotFound):
                        await items.remove("ns", path)
                else:
                    assert answered(await items.remove("ns", path))["value"] == expected
                    del model_get(model, path[:-1])[path[-1]]
                    if len(path) > 1 and not model[path[0]]:
                        del model[path[0]]
                for looked_at in (path, path[:1], [*path, "a"]):
                    if (expected := model_get(model, looked_at)) is MISSING:
                        with pytest.raises(NotFound):
                            await items.read("ns", looked_at)
                    else:
                        assert answered(await items.read("ns", looked_at))["value"] == expected
                if model:
                    assert answered(await items.read("ns", None)) == {"namespace": "ns", "key": None, "value": model}
                else:
                    with pytest.raises(NotFound, match="Namespace ns not found"):
                        await items.read("ns", None)
                    assert database.namespaces() == []

    asyncio.run(run())


def test_keys() -> None:
    assert parts_of("a.b") == ["a", "b"]
    assert parts_of(["a.b", "c"]) == ["a.b", "c"]
    for key in ("", ".", "a.", ".a", "a..b", [], [""], ["a", ""], ["a"] * (module.MAX_KEY_PARTS + 1)):
        with pytest.raises(BadRequest, match="Invalid Key Format"):
            parts_of(key)


async def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1500)
    async with opened(tmp_path) as (_, items):
        await items.write("ns", "a.b", "x" * 900)
        with pytest.raises(PayloadTooLarge):
            await items.write("ns", "big", "x" * 1000)
        with pytest.raises(PayloadTooLarge):  # together with what is there already
            await items.write("ns", "a.c", "x" * 900)
        assert answered(await items.read("ns", "a"))["value"] == {"b": "x" * 900}
        await items.write("ns", "b", "x" * 900)
        with pytest.raises(PayloadTooLarge, match="single keys"):
            await items.read("ns", None)


async def test_values_that_are_nested_too_deep(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, items):
        deep: Any = 1
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(BadRequest, match="nested too deep"):
            await items.write("ns", "a", deep)
        with pytest.raises(BadRequest, match="nested too deep"):
            await items.write("ns", "a.b", deep)
        deep = 1
        for _ in range(200):
            deep = [deep]
        await items.write("ns", "a.b", deep)
        assert answered(await items.read("ns", "a.b"))["value"] == deep
        while isinstance(deep, list):
            deep = deep[0] if deep else None


async def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as (database, items):
        await database.namespace("gcode_metadata").save("caf\udce9.gcode", {"size": 1})
        assert answered(await items.read("gcode_metadata", None))["value"] == {"caf?.gcode": {"size": 1}}
        assert answered(await items.read("moonraker", None))["value"] == {}


async def test_a_large_namespace_lets_others_work(tmp_path: Path) -> None:
    import asyncio

    async with opened(tmp_path) as (database, items):
        store = database.namespace("ns")
        await store.save_all({f"{number:05}": number for number in range(5000)})
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        reading = asyncio.create_task(items.read("ns", None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.remove("04999")
        assert len(answered(await reading)["value"]) == 4999
        assert turns >= 5000 // module.KEYS_AT_ONCE
        counting.cancel()
