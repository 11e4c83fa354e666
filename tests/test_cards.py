"""HTML parts of a page: the text for people and the attributes for programs."""

import io
import re
from base64 import b64decode
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fer_lib import cards


def test_a_card_gives_the_expression_as_text_and_as_attributes():
    html = cards.card("happy")
    assert 'data-expression="happy" data-sure="true"' in html
    assert "😄" in html
    assert ">happy<" in html
    assert 'aria-hidden="true">😄' in html  # the word says the same
    unsure = cards.card("happy", sure=False, note="<b>")
    assert 'data-sure="false"' in unsure
    assert "perhaps happy" in unsure
    assert "&lt;b&gt;" in unsure
    assert "no face" in cards.card(None)
    assert 'aria-hidden="true">🪞' in cards.waiting("Wait.")
    assert "prefers-reduced-motion" in cards.STYLE


def test_one_face_among_several_is_named():
    assert [cards.number_of(2, faces) for faces in (1, 3)] == ["", "face 2"]
    assert [cards.one_of(faces) for faces in (0, 1, 3)] == ["", "", "one of 3 faces is read here"]
    assert ">1 &lt; 2<" in cards.remark("1 < 2")


def test_a_picture_is_embedded_in_the_page():
    given = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    data = re.search(r'src="data:image/png;base64,([^"]+)"', cards.picture(given, "noise"))[1]
    assert (np.asarray(Image.open(io.BytesIO(b64decode(data)))) == given).all()


def test_bars_show_the_probabilities_in_the_given_order():
    html = cards.bars({"sad": 0.25, "happy": 0.75})
    assert re.findall(r"width:([\d.]+)%", html) == ["25.0", "75.0"]
    assert html.index("sad") < html.index("happy")


def areas(html: str) -> list[list[tuple[float, float]]]:
    svg = ElementTree.fromstring(unquote(re.search(r"image/svg\+xml,([^\"]+)", html)[1]))
    points = [area.attrib["points"].split() for area in svg]
    return [[tuple(map(float, point.split(","))) for point in one] for one in points]


def test_a_band_fills_its_height_and_breaks_where_there_was_no_face():
    p = {"happy": 0.25, "sad": 0.75}
    history = [(moment / 10, p) for moment in (*range(-90, -50), *range(-20, 1))]
    drawn = areas(cards.band(history))
    assert 'alt="probabilities of the last 10 seconds"' in cards.band(history)
    assert len(drawn) == 4  # two classes before the gap, two after it
    first, second = drawn[:2]
    assert {y for _, y in first} == {100, 75}
    assert {y for _, y in second} == {75, 0}
    assert min(x for x, _ in first) == pytest.approx(100)  # 9 of 10 seconds ago
    assert max(x for x, _ in first) == pytest.approx(490)
    assert max(x for x, _ in drawn[-1]) == pytest.approx(1000)


def test_a_thinned_band_has_no_gap_for_a_short_pause_and_ends_with_the_newest_point():
    pause = [moment for moment in range(-300, 1) if not -150 < moment < -133]
    history = [(moment / 30, {"happy": 1.0}) for moment in pause]  # 30 a second, 0.57 s without
    (area,) = areas(cards.band(history))
    assert len(area) < 2 * 130  # there and back
    assert max(x for x, _ in area) == 1000
    assert min(x for x, _ in area) == 0


def test_a_band_without_history_is_empty():
    assert areas(cards.band([])) == []
