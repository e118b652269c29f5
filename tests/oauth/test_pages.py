"""What the seller reads."""

from oauth.pages import Page, render

MARKUP = "<script>alert(1)</script>\"'&"


def test_no_text_gets_into_a_page_as_markup() -> None:
    for status in (200, 400):
        page = render(Page(status, MARKUP, MARKUP, "code", MARKUP), f"https://app.test/{MARKUP}")
        assert "<script" not in page.content
        assert page.content.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;") >= 4


def test_a_page_that_says_no_answers_no() -> None:
    assert render(Page(503, "No", "Later.", "unavailable", "Down.")).status_code == 503
    assert render(Page(200, "Yes", "Done.", "connected")).status_code == 200


def test_the_way_back_is_there_where_there_is_one() -> None:
    page = Page(200, "Yes", "Done.", "connected")
    assert (
        '<a class="back" href="https://app.test/settings?amazon=connected">'
        in render(page, "https://app.test/settings?amazon=connected").content
    )
    assert "<a " not in render(page).content
