"""`moonfast --check-config`: everything that is wrong with a configuration, with nothing started or written."""

from __future__ import annotations

from typing import TextIO

from moonfast import registry
from moonfast.config.load import Config, read_config
from moonfast.errors import ConfigError


def check(path: str, data_path: str, out: TextIO) -> int:
    """Print every problem and warning, a line each, and a verdict. Returns 1 if there are problems, else 0."""
    config = read_config(path, data_path)
    _read_components(config)
    problems = config.problems()
    warnings = config.all_warnings(entry.name for entry in registry.COMPONENTS)
    for problem in problems:
        print(f"error: {problem}", file=out)
    for warning in warnings:
        print(f"warning: {warning}", file=out)
    verdict = f"{len(problems)} problems" if problems else "no problems"
    print(f"{path}: {verdict}, {len(warnings)} warnings", file=out)
    return 1 if problems else 0


def _read_components(config: Config) -> None:
    """Read the sections of all components that would be built; what is wrong with them is noted in `config`."""
    for entry in registry.COMPONENTS:
        if not (entry.always or entry.name in config):
            continue
        try:
            kinds = registry.sections_of(entry)
        except ImportError as exc:
            config.notes.warnings.append(f"Component [{entry.name}] {registry.missing_package(exc)}.")
            continue
        for kind in kinds:
            try:
                if kind.is_prefix:
                    config.sections(kind)
                else:
                    config.section(kind)
            except ConfigError:
                continue  # noted
