"""Templates: what they can say, what they may not, and where an error is."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest

from moonfast.config.options import Notes, Option, Section, Template
from moonfast.config.source import read_text
from moonfast.errors import BadRequest, ConfigError, TemplateFailed
from moonfast.host.templates import MAX_STEPS, Templates

CALLS: list[tuple[str, dict[str, Any]]] = []


async def call_method(name: str, /, **arguments: Any) -> Any:
    await asyncio.sleep(0)
    if name == "fails":
        raise BadRequest("no such thing")
    CALLS.append((name, arguments))
    return {"status": {"toolhead": {"position": [1, 2, 3]}}}


def templates() -> Templates:
    CALLS.clear()
    return Templates({"mqtt": {"user": "ann"}}, call_method)


async def render(text: str, **values: Any) -> str:
    return await templates().compile(Template(text)).render(values)


async def test_values_statements_and_comments() -> None:
    assert await render("{# a #}{% set x = 2 %}{x + 1}{% if x %} yes{% endif %}") == "3 yes"
    assert await render("{secrets.mqtt.user}") == "ann"
    assert await render('{"Bearer %s, %5.2f %%" % (secrets.mqtt.user, 1)}') == "Bearer ann,  1.00 %"
    assert await render("{payload|fromjson|tojson}", payload='{"a": [1]}') == '{"a": [1]}'
    assert await render("  {% do items.append(1) %}\n {items}  ", items=[]) == "[1]"


async def test_data_of_the_caller() -> None:
    data: dict[str, object] = {}
    await render('{% do data.__setitem__("clicked", true) %}{% do data.update(count=2) %}', data=data)
    assert data == {"clicked": True, "count": 2}


async def test_methods_are_called_and_awaited() -> None:
    text = '{% set found = call_method("printer.objects.query", objects={"toolhead": None}) %}'
    assert await render(text + "{found.status.toolhead.position[1]}") == "2"
    assert CALLS == [("printer.objects.query", {"objects": {"toolhead": None}})]


async def test_functions_of_the_caller() -> None:
    results = {}

    def set_result(name: str, value: float) -> None:
        results[name] = value

    await render('{set_result("temperature", 20.5)}', set_result=set_result)
    assert results == {"temperature": 20.5}


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(9) %}{loop.index}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{f(n - 1)}{f(n - 1)}{% endmacro %}{f(900)}",
        "{% macro f() %}{f()}{% endmacro %}{f()}",
        '{"a" * 1000000000}',
        "{[1] * 1000000000}",
        "{9 ** 999999999}",
        "{9 ** 999 ** 999 ** 999}",
        '{"%1000000000d" % 1}',
        '{"%*d" % (1000000000, 1)}',
        '{"a".ljust(1000000000)}',
        '{"a"|center(1000000000)}',
        "{lipsum(1000000)}",
        "{range(1000000)}",
        '{"".__class__.__mro__}',
        "{call_method.__globals__.keys()}",
        "{undefined_thing.field}",
        "{1 / 0}",
        '{call_method("fails")}',
    ],
)
async def test_what_may_not_be_fails_soon(text: str) -> None:
    with pytest.raises((TemplateFailed, ConfigError)):
        async with asyncio.timeout(20):
            await render(text)


async def test_others_have_their_turn_while_a_template_loops() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.get_running_loop().create_task(count())
    await render("{% for i in range(50000) %}{% endfor %}")
    other.cancel()
    assert turns > 50


async def test_steps_are_counted_for_each_rendering() -> None:
    compiled = templates().compile(Template(f"{{% for i in range({MAX_STEPS - 10}) %}}{{% endfor %}}done"))
    assert await compiled.render() == "done"
    assert await compiled.render() == "done"


class ButtonConfig(Section, prefix="button"):
    on_press: Annotated[Template, Option(doc="x")]


CONFIG = """\
[button one]
on_press:
    # a comment
    {% set x = 1 %}

    {% set y = 2 %}
    {FAULT}
"""


def section(fault: str) -> ButtonConfig:
    return ButtonConfig.read(read_text(CONFIG.replace("{FAULT}", fault)), "button one", "/data", Notes())


async def test_a_fault_is_found_in_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        templates().compile(section("{% if %}").on_press)
    assert str(caught.value).startswith("moonraker.conf:7: [button one] on_press: ")
    compiled = templates().compile(section('{call_method("fails")}').on_press)
    with pytest.raises(TemplateFailed) as failed:
        await compiled.render()
    assert str(failed.value) == "moonraker.conf:7: [button one] on_press: the template failed: no such thing"
