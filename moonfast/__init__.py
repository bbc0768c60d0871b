"""moonfast: a fast API server for Klipper printers, a drop-in replacement for Moonraker. Importing starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Config", "Server", "__version__"]

if TYPE_CHECKING:
    from moonfast.config.load import Config
    from moonfast.server import Server


def __getattr__(name: str) -> Any:
    """Import the two public classes when they are asked for: `import moonfast` alone stays free of cost."""
    if name == "Server":
        from moonfast.server import Server

        return Server
    if name == "Config":
        from moonfast.config.load import Config

        return Config
    raise AttributeError(f"module 'moonfast' has no attribute '{name}'")
