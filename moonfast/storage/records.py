"""How a namespace, a key and a value become bytes and back.

Everything lies in one LMDB database. A record's name there is the namespace, a zero byte, the key, all in UTF-8: the
records of a namespace lie side by side, in the order of their keys. LMDB allows MAX_NAME_BYTES for a name. A longer
one is cut and gets a digest of the whole; its record then begins with the key. Any key works that way, and only keys
that are the same for the first few hundred bytes are out of order.

    name    namespace 00 key                     up to 510 bytes    record    JSON
            namespace 00 key, cut | 20 digest    511 bytes                    4 key size, little endian | key | JSON

In a namespace the bytes 00 and 01 are written 01 01 and 01 02, which keeps the order too.
"""

from __future__ import annotations

from moonfast.errors import BadRequest

MAX_NAME_BYTES = 511  # LMDB as it is built everywhere (mdb_env_get_maxkeysize)
MAX_NAMESPACE_BYTES = 255
_DIGEST_BYTES = 20
_SIZE_BYTES = 4


def to_bytes(text: str) -> bytes:
    """UTF-8; names of files may hold bytes that are no text (`os.fsdecode`), and these are kept."""
    return text.encode("utf-8", "surrogatepass")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def prefix(namespace: str) -> bytes:
    """What the names of all records of a namespace begin with. BadRequest: empty or too long."""
    data = to_bytes(namespace).replace(b"\x01", b"\x01\x02").replace(b"\x00", b"\x01\x01")
    if not 0 < len(data) <= MAX_NAMESPACE_BYTES:
        raise BadRequest(f"The name of a namespace must have 1 to {MAX_NAMESPACE_BYTES} bytes")
    return data + b"\x00"


def end(prefix: bytes) -> bytes:
    """The first name that can lie behind those that begin with `prefix`."""
    return prefix[:-1] + b"\x01"


def namespace_of(name: bytes) -> str:
    data = name[: name.index(b"\x00")]
    return to_text(data.replace(b"\x01\x01", b"\x00").replace(b"\x01\x02", b"\x01"))


def name_of(prefix: bytes, key: str) -> bytes:
    name = prefix + to_bytes(key)
    if len(name) < MAX_NAME_BYTES:
        return name
    import hashlib  # needs half a megabyte: only for keys this long

    digest = hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest()
    return name[: MAX_NAME_BYTES - _DIGEST_BYTES] + digest


def is_cut(name: bytes) -> bool:
    return len(name) == MAX_NAME_BYTES


def pack(name: bytes, key: str, text: bytes) -> bytes:
    """The record of a key whose value is the JSON `text`."""
    if not is_cut(name):
        return text
    data = to_bytes(key)
    return len(data).to_bytes(_SIZE_BYTES, "little") + data + text


def text_of(name: bytes, record: bytes) -> bytes:
    """The JSON in a record."""
    return record[_text_at(record) :] if is_cut(name) else record


def key_of(prefix: bytes, name: bytes, record: bytes | None) -> str:
    """The key of a record, which is looked at only where the name is cut."""
    if record is not None and is_cut(name):
        return to_text(record[_SIZE_BYTES : _text_at(record)])
    return to_text(name[len(prefix) :])


def _text_at(record: bytes) -> int:
    return _SIZE_BYTES + int.from_bytes(record[:_SIZE_BYTES], "little")
