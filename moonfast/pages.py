"""The page at "/" and its files, as the HTTP transport serves them: read once, never changed."""

from __future__ import annotations

from pathlib import Path

from moonfast.api.call import HttpAnswer

FOLDER = Path(__file__).resolve().parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = (
    # Nothing from elsewhere, nothing inline: a text from the server can never become a script.
    (
        "Content-Security-Policy",
        "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cache-Control", "no-cache"),
    ("Referrer-Policy", "no-referrer"),
)


def load_pages() -> dict[str, HttpAnswer]:
    """Path -> answer. An installation without the files has no page, and does the rest of its work."""
    pages = {}
    for file in sorted(FOLDER.glob("*.*")) if FOLDER.is_dir() else ():
        if file.suffix in TYPES:
            answer = HttpAnswer(file.read_bytes(), content_type=TYPES[file.suffix], headers=HEADERS)
            pages["/" if file.name == "index.html" else f"/page/{file.name}"] = answer
    return pages
