"""Which names of the service a request may use: a page that somebody visits must not reach it under a name of its own.

A page of ``evil.example`` may have that name resolved anew, to 127.0.0.1 (DNS rebinding). To the browser the service
is then part of that site, and whatever it answers is the page's to read; only ``Host`` tells. Starlette's
``TrustedHostMiddleware`` answers in plain text, and cannot let addresses pass, by which probes and scrapers ask.
"""

import ipaddress
import re
from collections.abc import Iterable

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")
ANY = "*"


class AllowedHosts:
    """Decides by the header ``Host``.

    Args:
        names: ``shop.example``, ``*.shop.example`` for all below it, ``*`` for all.
    """

    def __init__(self, names: Iterable[str] = (ANY,)) -> None:
        lower = frozenset(name.lower() for name in names)
        self._allows_all = ANY in lower
        self._names = frozenset(name for name in lower if not name.startswith("*"))
        self._endings = tuple(name[1:] for name in lower if name.startswith("*."))

    def allows(self, header: bytes | None) -> bool:
        """Whether a request with this ``Host`` is answered.

        No name can be bound to an address that is written out, and no browser leaves the header away.
        """
        if self._allows_all or not header:
            return True
        found = _HOST.fullmatch(header.decode("latin-1").lower())
        if found is None:
            return False
        name = found[1].removesuffix(".")
        return name in self._names or name.endswith(self._endings) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
