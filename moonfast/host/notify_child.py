"""Sends one notification with Apprise, as a program of its own: with its end the memory of that library is free again.

Standard input: JSON with `url`, `title`, `body`, `body_format` and `attach`, a list of files and addresses.
Standard output: JSON with `is_sent` and `faults`, a list of sentences. It imports nothing of this server.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

MAX_FAULTS = 10
MAX_FAULT_CHARACTERS = 300


class Faults(logging.Handler):
    """Collects what Apprise warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.getMessage())

    def add(self, fault: str) -> None:
        if len(self.found) < MAX_FAULTS:
            self.found.append(fault.strip()[:MAX_FAULT_CHARACTERS])


def send(request: dict[str, Any]) -> dict[str, Any]:
    """Send it; an attachment that cannot be had is left out."""
    faults = Faults()
    try:
        import apprise
    except ImportError:
        return {"is_sent": False, "faults": ["the package apprise is not installed"]}
    log = logging.getLogger("apprise")
    log.addHandler(faults)
    log.propagate = False
    sender = apprise.Apprise()
    if not sender.add(request["url"]):
        return {"is_sent": False, "faults": ["the url is not one that Apprise knows"]}
    attachments = apprise.AppriseAttachment()
    for item in request["attach"]:
        made = apprise.AppriseAttachment.instantiate(item, suppress_exceptions=True)
        if made:  # it is there, be it after a download
            attachments.add(made)
        else:
            faults.add("an attachment cannot be read and is left out")
    is_sent = sender.notify(
        title=request["title"],
        body=request["body"],
        body_format=request["body_format"],
        attach=attachments if len(attachments) else None,
    )
    return {"is_sent": bool(is_sent), "faults": faults.found}


if __name__ == "__main__":
    answer = send(json.load(sys.stdin))
    sys.stdout.write(json.dumps(answer))
