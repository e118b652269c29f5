"""HTML as a reader sees it."""

from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from poller import markup
from poller.wording import tidy


def text_of(html: str) -> str:
    return tidy(markup.read(html).text)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a<br>b<BR/>c", "a\nb\nc"),
        ("<p>a\n  b</p><p>c</p>", "a b\n\nc"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("a <b>b</b><i>c</i>", "a bc"),
        ("<pre>a\n b</pre>c", "a\nb\n\nc"),
        ("&lt;b&gt; &amp;amp; &eacute;&#233;&#xE9; &euro; &nope; &", "<b> &amp; ééé € &nope; &"),
        ("&#0;&#xD800;&#9999999;" + "&#" + "9" * 5_000 + ";", "\ufffd" * 4),
        ("a&#13;b&#12;c&#x1b;d&#x202e;e", "a\nb\ncd\u202ee"),
        ("<style>p{}</style><script>if (a<b) </script>x", "x"),
        ("<SCRIPT>a</script ><title>t</title>x", "x"),
        ("<!-- a --><!doctype html><?xml a?></ p>x<!-->y<!--->z", "xyz"),
        ("<!-- a", ""),
        ("<script>a", ""),
        ('<a title="a>b" href=c>d</a>', "d"),
        ("<a title='a>b'>d</a><p title=\"never>", "d"),
        ("a < b, b > c", "a < b, b > c"),
        ("1<2", "1<2"),
        ('<div style="display: none">a<div>b</div>c</div>d', "d"),
        ("<p hidden>a</p>b", "b"),
        ('<p class="hidden-sm">a</p>b', "a\n\nb"),
        ('<img style="display:none">a', "a"),
        ('<div>new</div><div class="gmail_quote">old</div>', "new"),
        ('new<blockquote type="cite">old<blockquote>older</blockquote></blockquote>below', "new\n\nbelow"),
        ("<blockquote>kept</blockquote>", "kept"),
        ('new<div id="divRplyFwdMsg">old</div><p>all of it</p>', "new"),
        ('<div class="gmail_quote">only this</div>', "only this"),
        ('<div style="display:none">only this</div>', "only this"),
    ],
)
def test_what_a_reader_sees_is_its_text(html: str, text: str) -> None:
    assert text_of(html) == text


def test_a_pre_wrapped_text_is_the_writers() -> None:
    page = markup.read('<p>You have a message</p><pre style="white-space: pre-wrap">a &lt;b\n<b>c</b></pre><p>d</p>')
    assert page.written.strip() == "a <b\nc"
    assert markup.read("<pre>a</pre>").written == ""


def test_what_is_too_large_is_cut_and_said_so() -> None:
    assert not markup.read("<p>a</p>").cut
    for html in ("a" * (markup.MAX_CHARS + 1), "<br>" * (markup.MAX_TOKENS + 1), "a" * (markup.MAX_TEXT_CHARS + 1)):
        page = markup.read(html)
        assert page.cut
        assert len(page.text) <= markup.MAX_TEXT_CHARS


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@st.composite
def pages(draw: st.DrawFn, depth: int = 4) -> str:
    """HTML as it should be."""
    if not depth or draw(st.booleans()):
        return escape(draw(words)) + draw(
            st.sampled_from(["", "\n", " ", "<br>", "<!-- <b> -->", "<style>p > a {}</style>"])
        )
    name = draw(st.sampled_from(["div", "p", "b", "span", "a", "li", "h1", "font"]))
    inner = "".join(draw(st.lists(pages(depth - 1), max_size=3)))
    attributes = draw(st.sampled_from(["", ' href="a>b"', " class='x'", " data-x=1", '\ntitle="\'"']))
    return f"<{name}{attributes}>{inner}</{name}>"


@given(pages())
def test_the_words_are_those_that_a_browsers_parser_finds(html: str) -> None:
    tree = LexborHTMLParser(f"<body>{html}")
    for style in tree.css("style"):
        style.decompose()
    assert "".join(text_of(html).split()) == "".join((tree.body.text() if tree.body else "").split())


@given(st.text("<>/=\"' abp!-&#;x\n", max_size=200))
def test_any_text_is_read(html: str) -> None:
    assert len(markup.read(html).text) <= len(html) * 2 + 100
