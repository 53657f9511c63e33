"""Pages cut into blocks, the main text chosen among them, and rendered plain or as Markdown."""

import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from data_prep.extract import extract
from data_prep.extract.blocks import Blocks, TooDeep, read_blocks
from data_prep.extract.main_text import MAX_DOUBT, Choice, choose
from data_prep.extract.render import render, render_all

SENTENCE = "The harbour lay quiet that morning, and the fishermen who had come back with the tide stood about the quay."
PARAGRAPHS = "".join(f"<p>{number}: {SENTENCE}</p>" for number in range(5))


def blocks_of(html: str, mark_code: bool = False) -> Blocks:
    return read_blocks(HTMLTree.parse(html), mark_code=mark_code)


def choice_of(html: str) -> tuple[str, Choice]:
    blocks = blocks_of(html)
    choice = choose(blocks)
    return render(blocks, choice.kept), choice


def main_text(html: str) -> str:
    return choice_of(html)[0]


def plain(html: str) -> str:
    return render_all(blocks_of(html))


def markdown(html: str) -> str:
    return render_all(blocks_of(html, mark_code=True), markdown=True)


# Blocks


def test_blocks_end_where_block_elements_do() -> None:
    blocks = blocks_of("<div>one <b>and</b>\n the<br>same<p>two</p>three<span> four</span><ul><li>five</ul></div>")
    assert blocks.text == ["one and the\nsame", "two", "three four", "five"]
    assert [blocks.tag[element] for element in blocks.home] == ["div", "p", "div", "li"]


def test_links_to_other_pages_are_counted_and_those_within_the_page_are_not() -> None:
    blocks = blocks_of('<p>see <a href="/x">there</a></p><p>see <a href="#x">below</a> <a name=x>here</a></p>')
    assert blocks.linked == [5, 0]


def test_what_is_never_text_is_no_block() -> None:
    nothing = (
        "<script>no</script><style>no</style><template>no</template><select><option>no</select><textarea>no</textarea><svg><text>no</svg>"
    )
    assert blocks_of(f"<p>yes{nothing}<!-- no --></p>").text == ["yes"]


@pytest.mark.parametrize(
    ("html", "is_chrome"),
    [
        ("<nav>", True),
        ("<div class='article-share'>", True),
        ("<div id=Comments>", True),
        ("<div class='ad'>", True),
        ("<div hidden>", True),
        ("<div style='color:red;display:none'>", True),
        ("<article class='with-sidebar'>", False),
        ("<div class='header-area'>", False),
        ("<div class='download'>", False),
        ("<div class='metadata'>", False),
        ("<div class='canvas'>", False),
    ],
)
def test_chrome_is_known_by_tag_class_and_id(html: str, is_chrome: bool) -> None:
    assert blocks_of(html + "x").chrome == [False, is_chrome]


@pytest.mark.parametrize("depth", [10, 512, 3_000])
def test_depth_is_counted_as_the_tree_has_it(depth: int) -> None:
    tree = HTMLTree.parse("<div>" * (depth - 2) + "text")  # html and body are there too
    assert read_blocks(tree, max_depth=depth).text == ["text"]
    with pytest.raises(TooDeep):
        read_blocks(tree, max_depth=depth - 1)


@pytest.mark.parametrize("html", ["", "<frameset><frame src=x></frameset>", "\0", "<script>"])
def test_a_page_without_a_body_has_no_blocks(html: str) -> None:
    assert blocks_of(html).text == []
    assert choice_of(html) == ("", Choice([], 0, 0))


# The choice


def test_the_main_text_is_kept_and_the_rest_of_the_page_is_not() -> None:
    links = "".join(f"<li><a href=/{number}>Section number {number}</a></li>" for number in range(20))
    html = f"""<header><a href=/>Home</a></header><div class=menu>{SENTENCE}</div><ul>{links}</ul>
    <div id=page><h1>The harbour</h1><div>{PARAGRAPHS}<h2>More</h2><ul>{links}</ul></div></div>
    <aside>{SENTENCE}</aside><div class="related-posts"><p>{SENTENCE}</p></div><footer>{SENTENCE}</footer>"""
    assert re.findall(r"^\d|^[A-Z].*", main_text(html), re.MULTILINE) == ["0", "1", "2", "3", "4"]


def test_what_holds_much_of_the_page_is_text_whatever_it_is_called() -> None:
    assert main_text(f"<form class='has-sidebar comments'>{PARAGRAPHS}</form><p>{SENTENCE}</p>").count(SENTENCE) == 6
    assert main_text(f"<noscript>{PARAGRAPHS}").count(SENTENCE) == 5


def test_a_lead_between_heading_and_text_is_part_of_the_text() -> None:
    lead = "Nobody knew why the boats had come back so early, nor who had called them."
    html = f"<p>{SENTENCE} (on top)</p><div><h1>Title</h1><p>{lead}</p><p>A date</p></div><div>{PARAGRAPHS * 3}</div>"
    assert main_text(html).startswith(f"{lead}\n\n0:")


def test_headings_without_text_under_them_are_dropped() -> None:
    html = f"<h1>Title</h1><h2>Empty</h2><h2>Full</h2><h3>Part</h3>{PARAGRAPHS}<h3>See also</h3><ul><li><a href=/>Other</a></ul>"
    assert re.findall(r"^[A-Z].*", main_text(html), re.MULTILINE) == ["Title", "Full", "Part"]


def test_doubt_is_the_share_of_text_left_out() -> None:
    text, choice = choice_of(f"<div class=comments>{PARAGRAPHS}</div>" * 20 + f"<div>{PARAGRAPHS}</div>")
    assert text.count(SENTENCE) == 5
    assert choice.doubt == pytest.approx(20 / 21) and choice.doubt > MAX_DOUBT
    assert choice_of(f"<nav>{SENTENCE}</nav><p>Short.</p>")[1].doubt == 0  # too little text to be worth a second look
    assert choice_of(PARAGRAPHS)[1].doubt == 0


TAGS = [
    "<div>", "<div class=nav>", "</div>", "<p>", "</p>", "<ul>", "<li>", "</ul>", "<table>", "<tr>", "<td>", "</table>", "<h1>", "<h2>",
    "<pre>", "</pre>", "<a href=/>", "</a>", "<br>", "<code>", "</code>", "word ", SENTENCE, "\n  two\n\nlines ", "é\u0301", "|", "`",
]  # fmt: skip


@settings(max_examples=150)
@given(parts=st.lists(st.sampled_from(TAGS), max_size=40))
def test_any_page_is_cut_chosen_and_rendered_without_losing_or_inventing_a_word(parts: list[str]) -> None:
    html = "".join(parts)
    blocks = blocks_of(html)
    assert all(0 <= parent < element for element, parent in enumerate(blocks.parent) if element)
    assert all(text == text.strip("\n") and text.strip() for text in blocks.text)
    choice = choose(blocks)
    assert choice.kept == sorted(set(choice.kept)) and 0 <= choice.doubt <= 1
    assert choice == choose(blocks_of(html))
    words = Counter(word for text in blocks.text for word in re.findall(r"\w+", text))
    for rendered in (render_all(blocks), render_all(blocks, markdown=True)):
        assert Counter(word for word in re.findall(r"\w+", rendered) if not word.isdigit()) == words
        assert "\n\n\n" not in rendered or "<pre>" in html


def test_time_grows_with_the_page_and_no_faster() -> None:
    seconds = []
    for number in (500, 4_000):
        html = ("<div>" * 20 + f"<ul><li>{SENTENCE}</ul><table><tr><td>a<td>b</table>" + "</div>" * 20) * (number // 20) + "<td>x" * number
        begun = time.process_time()
        main_text(html)
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 30 * seconds[0] + 0.5


# Rendering


def test_plain_text_has_blank_lines_between_paragraphs_and_lists_and_tables_line_by_line() -> None:
    html = "<h2>Title</h2><p>one<p>two<br>three<ul><li>a<ul><li>b</ul><li>c</ul><ol><li>d<li>e</ol><dl><dt>f<dd>g</dl><p>four"
    assert plain(html) == "Title\n\none\n\ntwo\nthree\n\n- a\n- b\n- c\n\n1. d\n2. e\n\nf\ng\n\nfour"
    assert plain("<table><tr><th>A<th>B<tr><td>1<td>2<tr><td><td>3 <p>4</table>") == "A | B\n1 | 2\n3 4"


def test_markdown_keeps_headings_lists_code_and_tables() -> None:
    html = "<h2>Title\n here</h2><p>Use <code>x()</code>.<ul><li>a<ul><li>b</ul><li>c<p>more</ul><ol><li>d</ol><pre>if x:\n    y</pre>"
    assert markdown(html) == "## Title here\n\nUse `x()`.\n\n- a\n  - b\n- c\n  more\n\n1. d\n\n```\nif x:\n    y\n```"
    assert markdown("<table><tr><th>A<th>B<tr><td>1<td><tr><td>2<td>3</table>") == "| A | B |\n| --- | --- |\n| 1 |  |\n| 2 | 3 |"


def test_code_keeps_its_lines_and_indents_in_pieces_too() -> None:
    assert plain("<pre>a\n\n  b\n</pre>") == "a\n\n  b"
    assert markdown("<pre><div>a = 1</div><div>  b = <b>2</b></div></pre>") == "```\na = 1\n  b = 2\n```"


def test_a_table_that_lays_out_the_page_is_no_table() -> None:
    assert plain(f"<table><tr><td>menu<td>{PARAGRAPHS}</table>").split("\n\n")[0] == "menu"
    assert plain("<table><tr><td>one<tr><td>two</table>") == "one\n\ntwo"
    assert plain("<table><tr><td>1<td><pre>code</pre></table>") == "1\n\ncode"


def test_links_of_headings_to_themselves_are_left_out() -> None:
    page = f"<h1>Tides<a class=headerlink href=#tides>¶</a></h1><p>{SENTENCE}</p>"
    assert extract(page).text.split("\n") == ["Tides", "", SENTENCE]
