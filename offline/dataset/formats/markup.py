"""Takes the markup out of scraped texts, and leaves what only looks like markup ("a < b", "List<int>", "<3").

Markup is what HTML knows: its elements, comments, and entities that end with a semicolon, however often they
were escaped.
"""

import html
import re

_ELEMENTS = (
    "a abbr article aside b big blockquote body br button center cite code col colgroup dd del div dl dt em figcaption "
    "figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins label li link main mark meta "
    "nav noscript object ol option p picture pre q s script section select small source span strike strong style sub "
    "sup svg table tbody td textarea tfoot th thead tr tt u ul video"
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# what is between these tags is for the browser; one that is never closed goes on to the end
_HIDDEN = re.compile(r"<(script|style|noscript|iframe)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)|<!doctype\b[^<>]*>", re.IGNORECASE | re.DOTALL)
# a ">" within quotes does not close a tag; what has no attribute with a value may be a comparison: "a <b and c> d"
_TAG = re.compile(
    rf"</?(?:{_ELEMENTS.replace(' ', '|')})"
    r"""(?:\s(?=[^<>]*=)(?:(?:[^<>"']++|"[^"]*+"|'[^']*+')*+|[^<>]*+)|\s*+/?)>""",
    re.IGNORECASE,
)
_MAX_ESCAPES = 4


def plain_text(text: str) -> str:
    """A text without markup; the very same text if there is none in it."""
    if "&" not in text and "<" not in text:
        return text
    cleaned = text
    for _ in range(_MAX_ESCAPES):
        before = cleaned
        cleaned = _ENTITY.sub(lambda entity: html.unescape(entity.group()), cleaned)
        for markup in (_HIDDEN, _COMMENT, _TAG):
            cleaned = markup.sub(" ", cleaned)
        if cleaned == before:
            break
    return text if cleaned == text else " ".join(cleaned.split())
