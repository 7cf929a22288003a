"""The console's files, read once: a page, and what it loads under a name that changes with the content."""

import gzip
import hashlib
import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STATIC_PATH = "console/static"

_HERE = Path(__file__).parent
_PAGE = _HERE / "index.html"
_STATIC = _HERE / "static"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it is sent.

    Attributes:
        body: Its bytes.
        compressed: The same through gzip.
        media_type: For ``Content-Type``.
    """

    body: bytes
    compressed: bytes
    media_type: str


class ConsoleFiles:
    """All files of the console, in memory (some 100 kB): nothing that a request says becomes a path.

    Attributes:
        version: Hash of all static files, part of their address. An address therefore never changes its content,
            and modules that import each other by relative names stay with files of their own version.
    """

    def __init__(self) -> None:
        self._files = {path.name: _read(path) for path in sorted(_STATIC.iterdir()) if path.suffix in _MEDIA_TYPES}
        digest = hashlib.sha256()
        for name, file in self._files.items():
            digest.update(f"{name}\0{len(file.body)}\0".encode() + file.body)
        self.version = digest.hexdigest()[:_HASH_DIGITS]
        self._template = _PAGE.read_text(encoding="utf-8")

    def get(self, name: str) -> StaticFile | None:
        """The file of this name, or None."""
        return self._files.get(name)

    def page(self, *, wants_key: bool, features: Iterable[str]) -> bytes:
        """The page.

        Args:
            wants_key: Whether requests need an API key.
            features: Words for what this service can do beyond the basics.
        """
        base = f"{STATIC_PATH}/{self.version}"
        # All modules are named at once, or the browser would learn of each only from the one that imports it.
        modules = sorted(name for name in self._files if name.endswith(".js"))
        preloads = "\n".join(
            f'<link rel="modulepreload" href="{base}/{name}">' for name in modules if name != "theme.js"
        )
        text = self._template
        for name, value in (
            ("preloads", preloads),
            ("static", base),
            ("wants-key", "yes" if wants_key else "no"),
            ("features", html.escape(" ".join(sorted(features)))),
        ):
            text = text.replace("{{" + name + "}}", value)
        return text.encode()


def _read(path: Path) -> StaticFile:
    body = path.read_bytes()
    return StaticFile(body, gzip.compress(body, mtime=0), _MEDIA_TYPES[path.suffix])
