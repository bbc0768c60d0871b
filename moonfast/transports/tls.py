"""Certificates for HTTPS and secure WebSockets, and their reload when they are renewed."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl

from moonfast.errors import StartError

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""Between looks whether the files have changed."""

_Stamp = tuple[tuple[int, int], ...]


class Certificates:
    """One certificate and its key. `context` stays the same object: connections made later get the renewed pair."""

    def __init__(self, certificate_path: str, key_path: str) -> None:
        self._paths = (certificate_path, key_path)
        self._timer: asyncio.TimerHandle | None = None
        self._stamp: _Stamp | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])

    def start(self) -> None:
        """Read the pair and look after it from now on. StartError: it cannot be used."""
        try:
            self._stamp = self._look()
            self.context.load_cert_chain(*self._paths)
        except (OSError, ssl.SSLError) as exc:
            names = " and ".join(os.path.basename(path) for path in self._paths)
            raise StartError(
                f"TLS: the certificate and key in {names} cannot be used: {_reason(exc)}. Replace or remove them."
            ) from None
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reload_if_changed(self) -> bool:
        """Take over a renewed pair; one that cannot be used is left alone, with one warning."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._paths)  # a broken pair must not get further
            self.context.load_cert_chain(*self._paths)
        except (OSError, ssl.SSLError) as exc:
            log.warning("TLS: the new certificate cannot be used, the one before stays: %s", _reason(exc))
            return False
        log.info("TLS: the certificate was renewed")
        return True

    def _look(self) -> _Stamp:
        found = [os.stat(path) for path in self._paths]
        return tuple((info.st_mtime_ns, info.st_size) for info in found)

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)
        self.reload_if_changed()


def _reason(exc: OSError | ssl.SSLError) -> str:
    return str(getattr(exc, "strerror", None) or getattr(exc, "reason", None) or exc)
