"""What a buyer wrote, without Amazon's frame and what is quoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.sandbox.letters import LANGUAGES
from devstack.sandbox.mails import QUOTES
from poller.wording import MARKERS, said, tidy

D = "-------------"


def test_every_marker_says_where_it_is_known_from() -> None:
    for each in (MARKERS.domains, MARKERS.notifications, MARKERS.frame, MARKERS.footers, MARKERS.quotes):
        assert len(each.source) > 20
    assert MARKERS.frame.languages.keys() == LANGUAGES.keys()


@pytest.mark.parametrize(
    ("begin", "end", "language"),
    [
        *(
            (begin, end, language)
            for language, ends in MARKERS.frame.languages.items()
            for begin in [*ends.begin, "Message:", "Message: "]
            for end in ends.end
        ),
        ("message: ", "finalizar  mensaje", "es"),
    ],
)
def test_the_inside_of_the_frame_is_what_was_written(begin: str, end: str, language: str) -> None:
    for around in (
        f"Hi\n\n{D} {begin} {D}\n\nWords\n\n{D} {end} {D}\nFooter",
        f"Hi {D} {begin} {D} Words {D} {end} {D} F",
    ):
        found = said(around)
        assert (found.text, found.language, found.framed) == ("Words", language, True)
        assert said(around.replace(" ", "\u00a0")).text == "Words"


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Just words", "Just words"),
        (f"{D} Begin message {D}\nWords, no end", "Words, no end"),
        (f"{D} Begin message {D}\nWords\n\nhttps://x.test/messaging/inbox", "Words"),
        (f"{D} Begin message {D}\nWords\nSolve https://x.test/messaging/inbox\n[commMgrTok:A]", "Words"),
        (f"# 1\n1 / Lamp [ASIN: B0ABCDEFGH]\n\nWords\n{D} End message {D}", "Words"),
        (f"{D} Begin message {D}\n\n{D} End message {D}\nFooter", ""),
        (f"{D} End message {D}", f"{D} End message {D}"),
        (f"{D} Begin message {D}", f"{D} Begin message {D}"),
        (
            f"{D} Mensaje: {D}\n{D} Mensaje de respuesta {D}\nYes\n---Mensaje original---\nNo\n---Finalizar mensaje---",
            "Yes",
        ),
        (f"{D} Begin message {D}\nA\n{D} End message {D}\nB\n{D} End message {D}\nF", f"A\n{D} End message {D}\nB"),
        (f"Own\n\n-----Original Message-----\n{D} Begin message {D}\nOld\n{D} End message {D}", "Own"),
        ("-- End message --", "-- End message --"),
        ("[commMgrTok:A]", "[commMgrTok:A]"),
        ("SPC-EUAmazon-1\nWords", "SPC-EUAmazon-1\nWords"),
        ("Words\nSPC-EUAmazon-1", "Words"),
    ],
)
def test_frames_that_are_not_whole_lose_no_words(text: str, own: str) -> None:
    assert said(text).text == own


@pytest.mark.parametrize("quote", [quote for quotes in QUOTES.values() for quote in quotes])
def test_what_a_mail_program_quotes_is_left_out(quote: str) -> None:
    assert said(f"Own words\n\n{quote}\n> old\nmore").text == "Own words"
    assert said(f"{quote}\nonly this").text == tidy(f"{quote}\nonly this")


@pytest.mark.parametrize(
    "text",
    [
        "On Monday she wrote: hello",
        "From: Paris\nDate: tomorrow",
        "Il mio pacco",
        "Le colis a écrit : rien",
        "5 > 4",
        "a ---- b",
        "_____ name",
        "---",
    ],
)
def test_words_that_only_look_like_a_quote_stay(text: str) -> None:
    assert said(f"First line\n{text}").text == f"First line\n{text}"


def test_cited_lines_are_left_out_unless_there_is_nothing_else() -> None:
    assert said("> you asked\nyes\n> and\nno").text == "yes\nno"
    assert said("> only\n> this").text == "> only\n> this"


pieces = st.sampled_from(
    [*"ab->\n _:é", "\n> ", "---End message---", "---Begin message---", "\nOn 1234567 wrote:\n", "\nSPC-EUAmazon-"]
)


@given(st.lists(pieces, max_size=20).map("".join))
def test_where_something_was_written_something_is_found(text: str) -> None:
    found = said(text)
    assert found.text == tidy(found.text)
    assert found.text or found.framed or not tidy(text)
    assert said(f"---Message:---\nx{text}\n---Fin du message---").text
