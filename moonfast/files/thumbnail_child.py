"""Shrinks and converts pictures with Pillow: a program of its own, so that the server never loads Pillow.

A request on standard input is `REQUEST` and the picture's bytes, an answer on standard output `ANSWER` and a PNG; one
after the other, until standard input ends. Pictures are strangers' data: bytes and pixels are bounded before anything
is decoded, and the memory of the process is.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import sys
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_THUMBNAIL_BYTES = 4 * 1024 * 1024  # of a picture, going in or out
MAX_PIXELS = 4_000_000
MAX_SIDE = 65_535  # pixels; what an answer can tell
MAX_MEMORY_BYTES = 256 * 1024 * 1024  # address space; the program with Pillow takes 30 to 100 MiB of it
NICENESS = 10
SMALL_SIDE = 32

REQUEST = struct.Struct("<BI")  # task, bytes that follow
ANSWER = struct.Struct("<BHHI")  # status, width, height, bytes that follow
SHRINK, CONVERT = range(2)  # fit into SMALL_SIDE x SMALL_SIDE, never larger than it was; or keep the size
DONE, BAD_PICTURE, NO_PILLOW, NO_QOI = range(4)

PNG_MARK = b"\x89PNG\r\n\x1a\n"
JPEG_MARK = b"\xff\xd8\xff"
QOI_MARK = b"qoif"


def _open(data: bytes) -> Image:
    """Read a picture's header. The classes are used directly: `Image.open` loads the plugins of other formats."""
    file = io.BytesIO(data)
    if data.startswith(PNG_MARK):
        from PIL import PngImagePlugin

        return PngImagePlugin.PngImageFile(file)
    if data.startswith(JPEG_MARK):
        from PIL import JpegImagePlugin

        return JpegImagePlugin.JpegImageFile(file)
    if data.startswith(QOI_MARK):
        from PIL import QoiImagePlugin  # since Pillow 9.5

        return QoiImagePlugin.QoiImageFile(file)
    raise ValueError("neither PNG nor JPEG nor QOI")


def _work(task: int, data: bytes) -> tuple[int, int, bytes]:
    """Return width, height and bytes of the PNG that is made of a picture."""
    picture = _open(data)
    if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE:
        raise ValueError("too many pixels")
    if task == SHRINK:
        picture.draft(None, (SMALL_SIDE, SMALL_SIDE))  # a JPEG is decoded at an eighth of its size
    if picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert("RGBA")
    if task == SHRINK:
        picture.thumbnail((SMALL_SIDE, SMALL_SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return picture.width, picture.height, out.getvalue()


def answer(task: int, data: bytes) -> bytes:
    """Return the whole answer to a request. Whatever is wrong with the picture ends here, running out of memory too."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        return ANSWER.pack(NO_PILLOW, 0, 0, 0)
    try:
        width, height, png = _work(task, data)
    except ImportError:
        return ANSWER.pack(NO_QOI, 0, 0, 0)
    except Exception:
        return ANSWER.pack(BAD_PICTURE, 0, 0, 0)
    if len(png) > MAX_THUMBNAIL_BYTES:
        return ANSWER.pack(BAD_PICTURE, 0, 0, 0)
    return ANSWER.pack(DONE, width, height, len(png)) + png


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more, or one is not whole or too large: then the other side is lost."""
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        task, size = REQUEST.unpack(header)
        if size > MAX_THUMBNAIL_BYTES or len(data := requests.read(size)) < size:
            return
        answers.write(answer(task, data))
        answers.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes standard input
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.nice(NICENESS)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
