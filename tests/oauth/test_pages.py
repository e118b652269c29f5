"""What the seller reads."""

from oauth import pages

MARKUP = "<script>alert(1)</script>\"'&"


def test_no_text_gets_into_a_page_as_markup() -> None:
    for page in (pages.success(MARKUP, MARKUP), pages.failure(400, MARKUP, MARKUP, MARKUP)):
        assert "<script" not in page.content
        assert page.content.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;") >= 3


def test_a_page_that_says_no_answers_no() -> None:
    assert pages.failure(503, "No", "Later.", "Down.").status_code == 503
    assert pages.success("Yes", "Done.").status_code == 200
