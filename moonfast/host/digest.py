"""HTTP Digest access authentication (RFC 7616), as plugs ask for it."""

from __future__ import annotations

import hashlib
import os
import re

_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def answer_to(challenge: str, verb: str, target: str, user: str, password: str, cnonce: str | None = None) -> str:
    """The Authorization header for a WWW-Authenticate of the kind Digest, with the quality "auth".

    An algorithm that is not known here is taken for MD5, the oldest: the other side refuses the answer then.
    """
    fields = {key.lower(): quoted or plain for key, quoted, plain in _FIELD.findall(challenge)}
    realm, nonce, algorithm = fields.get("realm", ""), fields.get("nonce", ""), fields.get("algorithm", "MD5").upper()
    make = _HASHES.get(algorithm, hashlib.md5)

    def digest(text: str) -> str:
        return make(text.encode()).hexdigest()

    cnonce, count = cnonce or os.urandom(8).hex(), "00000001"
    secret, request = digest(f"{user}:{realm}:{password}"), digest(f"{verb}:{target}")
    parts = {
        "username": f'"{user}"',
        "realm": f'"{realm}"',
        "nonce": f'"{nonce}"',
        "uri": f'"{target}"',
        "response": f'"{digest(f"{secret}:{nonce}:{count}:{cnonce}:auth:{request}")}"',
        "algorithm": algorithm,
        "cnonce": f'"{cnonce}"',
        "qop": "auth",
        "nc": count,
    }
    if "opaque" in fields:
        parts["opaque"] = f'"{fields["opaque"]}"'
    return "Digest " + ", ".join(f"{name}={value}" for name, value in parts.items())
