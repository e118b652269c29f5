"""HTML as a reader sees it, in one pass over its tags: each character is looked at once, whatever it is."""

import re
from html import unescape

from msgspec import Struct

MAX_CHARS = 200_000
MAX_TOKENS = 10_000
"""Tags, and the text between two of them."""
MAX_TEXT_CHARS = 100_000

_TOKEN = re.compile(
    r"""<!--(?:-?>|.*?(?:--!?>|\Z))"""
    r"""|<(/?)([a-z][^\s/>]*+)((?:[^>=]|=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+)*+)(?:>|\Z)"""
    r"""|<[!?/][^>]*+(?:>|\Z)|([^<]++|<)""",
    re.IGNORECASE | re.DOTALL,
)
_RAW = ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "noscript", "template")
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}
_BREAKS = {
    **dict.fromkeys(("td", "th"), " "),
    **dict.fromkeys(
        ("address", "article", "aside", "br", "center", "dd", "div", "dl", "dt", "fieldset", "footer"), "\n"
    ),
    **dict.fromkeys(("form", "header", "hr", "li", "main", "nav", "section", "tr"), "\n"),
    **dict.fromkeys(("blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"), "\n\n"),
}
_EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_HIDDEN = re.compile(
    r"""display\s*+:\s*+none|(?<=\s)hidden(?=[\s/]|\Z)"""
    r"""|\btype\s*+=\s*+["']?cite\b|\bclass\s*+=\s*+["']?(?:gmail_quote|yahoo_quoted)\b""",
    re.IGNORECASE,
)
_REST_IS_QUOTED = re.compile(r"""\bid\s*+=\s*+["']?(?:divRplyFwdMsg|appendonsend)\b""", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}+|#x[0-9a-f]{1,6}+|[a-z][a-z0-9]{1,31}+);?", re.IGNORECASE)
_SPACES = re.compile(r"\s+")


class Page(Struct, frozen=True):
    text: str
    cut: bool
    """More was there than is read."""
    written: str
    """What stands in a pre-wrapped <pre>, in which Amazon puts the buyer's words, whatever the language."""


def read(html: str) -> Page:
    """Without what is hidden or quoted; with it where nothing would be left."""
    page = _Reader(html[:MAX_CHARS], keep=False).page()
    return page if page.text.strip() else _Reader(html[:MAX_CHARS], keep=True).page()


class _Reader:
    def __init__(self, html: str, *, keep: bool) -> None:
        self._html = html
        self._keep = keep
        self._pieces: list[str] = []
        self._written: list[str] = []
        self._hidden = ""
        self._depth = 0
        """Of elements of the hidden one's name in it."""
        self._pre = 0
        self._by_writer = False

    def page(self) -> Page:
        position, tokens, html = 0, 0, self._html
        while (token := _TOKEN.match(html, position)) and tokens < MAX_TOKENS:
            position = token.end()
            tokens += 1
            if token[4] is not None:
                self._add(token[4] if self._pre else _SPACES.sub(" ", token[4]))
            elif token[2] is not None:
                name = token[2].lower()
                if not token[1] and name in _RAW_END:
                    end = _RAW_END[name].search(html, position)
                    position = end.start() if end else len(html)
                elif not token[1] and not self._keep and _REST_IS_QUOTED.search(token[3]):
                    break
                else:
                    self._tag(name, token[3], closing=bool(token[1]))
        text = "".join(self._pieces)
        cut = tokens == MAX_TOKENS or len(html) == MAX_CHARS or len(text) > MAX_TEXT_CHARS
        return Page(_unescaped(text), cut, _unescaped("".join(self._written)))

    def _tag(self, name: str, attributes: str, *, closing: bool) -> None:
        if self._hidden:
            if name == self._hidden:
                self._depth += -1 if closing else 1
                self._hidden = name if self._depth else ""
        elif not closing and not self._keep and name not in _EMPTY and _HIDDEN.search(attributes):
            self._hidden, self._depth = name, 1
        else:
            self._add(_BREAKS.get(name, ""))
            if name == "pre":
                self._pre = max(0, self._pre + (-1 if closing else 1))
                self._by_writer = bool(self._pre) and (self._by_writer or "pre-wrap" in attributes)

    def _add(self, text: str) -> None:
        if not self._hidden:
            self._pieces.append(text)
            if self._by_writer:
                self._written.append(text)


def _unescaped(text: str) -> str:
    return _ENTITY.sub(lambda found: unescape(found[0]), text[:MAX_TEXT_CHARS])
