"""Templates of the configuration: Jinja2, sandboxed and asynchronous, imported with the first one.

    on_press:
        {% set status = call_method("printer.objects.query", objects={"toolhead": ["position"]}) %}
        {% do call_method("server.mqtt.publish", topic="button", payload=status|tojson) %}

Delimiters are `{% %}` for statements and `{ }` for values; `{# #}` is a comment. Every template knows `secrets` and
`call_method(name, **arguments)`. What it does is counted: one that loops is stopped, and while it works the loop of the
server goes on. Source: web_api.md, "Jinja2 Template API Calls".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from moonfast.codec import decode
from moonfast.config.options import Template
from moonfast.errors import ApiError, ConfigError, MoonfastError, TemplateFailed

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

MAX_STEPS = 100_000
"""Turns of loops and calls of one rendering, all together."""
STEPS_AT_ONCE = 500
"""After so many turns the others on the loop come first."""
MAX_TEXT = 1024 * 1024
"""Characters that a template may produce, or make by multiplication."""
MAX_POWER_BITS = 4096

_WIDTH = re.compile(r"%[^%a-zA-Z]*(?:\d{4}|\*)")

CallMethod = Callable[..., Awaitable[Any]]


class Compiled(Protocol):
    """A template that is ready to be rendered."""

    async def render(self, values: Mapping[str, Any] | None = None) -> str:
        """Its text, without white space around it. TemplateFailed: with section, option and line."""


class Templates:
    """The templates of one server. `call_method` calls an endpoint by its JSON-RPC name."""

    def __init__(self, secrets: Mapping[str, Any], call_method: CallMethod) -> None:
        self._secrets, self._call_method = secrets, call_method
        self._environment: SandboxedEnvironment | None = None

    def compile(self, template: Template) -> Compiled:
        """Make a template ready. ConfigError: it is none, with the line of the fault."""
        from jinja2 import TemplateSyntaxError

        if self._environment is None:
            self._environment = _environment({"secrets": self._secrets, "call_method": self._call_method})
        try:
            compiled = self._environment.from_string(str(template))
        except TemplateSyntaxError as exc:
            raise ConfigError(
                f"{exc.message}.",
                file=template.file or None,
                line=_line(template, exc.lineno),
                section=template.section,
                option=template.option,
                remedy="Values stand in { }, statements in {% %}.",
            ) from None
        return _Ready(template, compiled)


def _line(template: Template, line: int) -> int | None:
    """The line of the file, of a line of the template (from 1)."""
    if not template.lines:
        return None
    return template.lines[min(max(line, 1), len(template.lines)) - 1]


class _Ready:
    def __init__(self, template: Template, compiled: Any) -> None:
        self._template, self._compiled = template, compiled

    async def render(self, values: Mapping[str, Any] | None = None) -> str:
        from jinja2 import TemplateError

        token = _steps.set([0])
        try:
            text = str(await self._compiled.render_async(values or {}))
        except TemplateError as exc:
            raise self._failed(exc, exc.message or type(exc).__name__) from None
        except ApiError as exc:
            raise self._failed(exc, exc.message) from exc
        except RecursionError as exc:
            raise self._failed(exc, "a macro calls itself without end") from None
        except MoonfastError as exc:
            raise self._failed(exc, str(exc)) from exc
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, MemoryError) as exc:
            raise self._failed(exc, str(exc) or type(exc).__name__) from exc
        finally:
            _steps.reset(token)
        if len(text) > MAX_TEXT:
            raise self._failed(None, f"its text has more than {MAX_TEXT} characters")
        return text.strip()

    def _failed(self, error: BaseException | None, fault: str) -> TemplateFailed:
        template = self._template
        place = f"[{template.section}] {template.option}"
        line = _line(template, _failed_at(error))
        if line is not None:
            place = f"{template.file}:{line}: {place}"
        return TemplateFailed(f"{place}: the template failed: {fault}")


def _failed_at(error: BaseException | None) -> int:
    """The line of the template that was worked on when an error was raised; 1 where nothing tells.

    Jinja2 rewrites the traceback so that the frames of a template stand in it as "<template>".
    """
    trace = error.__traceback__ if error is not None else None
    line = 1
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


_steps: ContextVar[list[int]] = ContextVar("steps of the template that is rendered")


def _count_step() -> int:
    """Count one turn of a loop or one call. TemplateFailed: there were too many."""
    count = _steps.get(None)
    if count is None:  # a macro that outlives its rendering
        return 1
    count[0] += 1
    if count[0] > MAX_STEPS:
        raise TemplateFailed(f"it takes more than {MAX_STEPS} steps and was stopped")
    return count[0]


def _environment(known: Mapping[str, Any]) -> SandboxedEnvironment:
    """The sandbox. What Jinja2 leaves open is closed here: loops, powers and long texts without end."""
    import jinja2
    from jinja2 import runtime
    from jinja2.async_utils import auto_aiter
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import SandboxedEnvironment

    async def counted(items: Any) -> AsyncIterator[Any]:
        async for item in auto_aiter(items):
            if _count_step() % STEPS_AT_ONCE == 0:
                await asyncio.sleep(0)
            yield item

    class CountedLoop(runtime.AsyncLoopContext):
        _to_iterator = staticmethod(counted)  # type: ignore[assignment]

    class CountedTemplate(jinja2.Template):
        @classmethod
        def _from_namespace(cls, environment: Any, namespace: Any, globals: Any) -> Any:
            namespace["auto_aiter"], namespace["AsyncLoopContext"] = counted, CountedLoop
            return super()._from_namespace(environment, namespace, globals)

    class Sandbox(SandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%"))
        template_class = CountedTemplate

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if attr == "__setitem__" and type(obj) is dict:  # as Moonraker's documentation keeps data of buttons
                return True
            return super().is_safe_attribute(obj, attr, value)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and isinstance(left, int) and left.bit_length() * right > MAX_POWER_BITS:
                raise SecurityError(f"a power may have {MAX_POWER_BITS} bits at most")
            if operator == "*":
                for text, times in ((left, right), (right, left)):
                    if isinstance(text, str | list | tuple) and isinstance(times, int):
                        _refuse_long(len(text) * times)
            if operator == "%" and isinstance(left, str) and _WIDTH.search(left):
                raise SecurityError("a width in a format may have three digits at most")
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
            _count_step()
            if isinstance(getattr(obj, "__self__", None), str):
                for value in (*args, *kwargs.values()):
                    if isinstance(value, int):
                        _refuse_long(value)
            return super().call(context, obj, *args, **kwargs)

    def _refuse_long(length: int) -> None:
        if length > MAX_TEXT:
            raise SecurityError(f"a text may have {MAX_TEXT} characters at most")

    environment = Sandbox(
        block_start_string="{%",
        block_end_string="%}",
        variable_start_string="{",
        variable_end_string="}",
        trim_blocks=True,
        lstrip_blocks=True,
        enable_async=True,
        autoescape=False,
        extensions=("jinja2.ext.do",),
    )
    environment.globals.pop("lipsum", None)
    environment.globals.update(known)
    environment.filters.pop("center", None)
    environment.filters["fromjson"] = decode
    return environment
