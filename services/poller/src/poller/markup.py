"""HTML as a reader sees it, in one pass over its tags: each character is looked at once, whatever it is."""

import re
from html import unescape

from msgspec import Struct

from .charset import storable

MAX_CHARS = 200_000
MAX_TOKENS = 10_000
"""Tags, and the text between two of them."""
MAX_TEXT_CHARS = 60_000

_TOKEN = re.compile(
    r"""<!--(?:-?>|.*?(?:--!?>|\Z))"""
    r"""|<(/?)([a-z][^\s/>]*+)((?:[^>=]|=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+)*+)(?:>|\Z)"""
    r"""|<[!?/][^>]*+(?:>|\Z)|([^<]++|<)""",
    re.IGNORECASE | re.DOTALL,
)
_RAW = ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "noscript", "template")
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}
_LINES = {
    **dict.fromkeys(
        ("address", "article", "aside", "center", "dd", "div", "dl", "dt", "fieldset", "footer", "form"), 1
    ),
    **dict.fromkeys(("header", "hr", "li", "main", "nav", "section", "tr"), 1),
    **dict.fromkeys(("blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"), 2),
}
"""How many line ends stand at least before and after it."""
_EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_HIDDEN = re.compile(
    r"""display\s*+:\s*+none|(?<=\s)hidden(?=[\s/]|\Z)"""
    r"""|\btype\s*+=\s*+["']?cite\b|\bclass\s*+=\s*+["']?(?:gmail_quote|yahoo_quoted)\b""",
    re.IGNORECASE,
)
_REST_IS_QUOTED = re.compile(r"""\bid\s*+=\s*+["']?(?:divRplyFwdMsg|appendonsend)\b""", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]++|#x[0-9a-f]++|[a-z][a-z0-9]{1,31}+);?", re.IGNORECASE)
_MAX_ENTITY_CHARS = 34
_SPACES = re.compile(r"\s+")


class Page(Struct, frozen=True):
    text: str
    cut: bool
    """More was there than is read."""
    written: str
    """What stands in a pre-wrapped <pre>, in which Amazon puts the buyer's words, whatever the language."""


def read(html: str) -> Page:
    """Without what is hidden or quoted; with it where nothing would be left."""
    reader = _Reader(html[:MAX_CHARS], keep=False)
    page = reader.page()
    return _Reader(html[:MAX_CHARS], keep=True).page() if reader.left_out and not page.text.strip() else page


class _Reader:
    def __init__(self, html: str, *, keep: bool) -> None:
        self._html = html
        self._keep = keep
        self.left_out = False
        self._pieces: list[str] = []
        self._written: list[str] = []
        self._hidden = ""
        self._depth = 0
        """Of elements of the hidden one's name in it."""
        self._ends = 0
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
                    self.left_out = True
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
            return
        self._ends = self._ends + 1 if name == "br" else max(self._ends, _LINES.get(name, 0))
        if not closing and not self._keep and name not in _EMPTY and _HIDDEN.search(attributes):
            self._hidden, self._depth, self.left_out = name, 1, True
        elif name in {"td", "th"}:
            self._add(" ")
        elif name == "pre":
            self._pre = max(0, self._pre + (-1 if closing else 1))
            self._by_writer = bool(self._pre) and (self._by_writer or "pre-wrap" in attributes)

    def _add(self, text: str) -> None:
        if self._hidden or (self._ends and text.isspace() and not self._pre):
            return
        text = "\n" * min(self._ends, 2) + text
        self._ends = 0
        self._pieces.append(text)
        if self._by_writer:
            self._written.append(text)


def _unescaped(text: str) -> str:
    return storable(_ENTITY.sub(_character, text[:MAX_TEXT_CHARS]))


def _character(found: re.Match[str]) -> str:
    return unescape(found[0]) if len(found[0]) <= _MAX_ENTITY_CHARS else "\ufffd"
