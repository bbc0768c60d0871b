"""Sections that are right for Moonraker though nothing here reads them yet: their users deserve an honest text."""

from __future__ import annotations

# The first word of every section in Moonraker's documentation ("Configuration"), but for those in sections.py.
MOONRAKER = frozenset(
    (
        "analysis",
        "announcements",
        "button",
        "dbus_manager",
        "extensions",
        "history",
        "http_client",
        "job_queue",
        "job_state",
        "klippy_apis",
        "klippy_connection",
        "ldap",
        "machine",
        "mqtt",
        "notifier",
        "octoprint_compat",
        "paneldue",
        "power",
        "proc_stats",
        "sensor",
        "shell_command",
        "simplyprint",
        "spoolman",
        "template",
        "update_manager",
        "webcam",
        "websockets",
        "wled",
        "zeroconf",
    )
)

# Parts that others wrote to be copied into Moonraker's program folder.
THIRD_PARTY = frozenset(("timelapse",))


def explain(name: str) -> str | None:
    """Say why a section is ignored that is right for Moonraker, or None for a name that means nothing to it."""
    word = name.split(None, 1)[0]
    if word in MOONRAKER:
        return "These config sections are not supported by this version of moonfast yet and are ignored:"
    if word in THIRD_PARTY:
        return "These config sections belong to add-ons for Moonraker, which moonfast cannot load, and are ignored:"
    return None
