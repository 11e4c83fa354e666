"""Parts of a page as HTML: an expression with its emoji, bars, and a band of the last seconds.

They look alike in Streamlit, Gradio and a notebook, on light and dark pages, need no script and
fetch nothing. The page must contain `STYLE` once.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from urllib.parse import quote

import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from fer_lib.labels import EMOJI
from fer_lib.plots import EMOTION_COLOURS

COLOURS = {name: to_hex(colour) for name, colour in EMOTION_COLOURS.items()}

SECONDS = 10  # length of a band
GAP = 0.6  # seconds without a face above which a band is broken

STYLE = """<style>
.fer-card { text-align: center; }
.fer-emoji { font-size: 6.5rem; line-height: 1.15; transition: opacity .3s;
  font-family: "Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji", sans-serif; }
.fer-word { font-size: 1.5rem; font-weight: 600; }
.fer-note { opacity: .75; min-height: 1.5em; }
.fer-card[data-sure="false"] .fer-emoji { opacity: .45; }
.fer-bars { display: grid; grid-template-columns: auto 1fr auto; gap: .4rem .7rem;
  align-items: center; margin: .6rem 0; font-variant-numeric: tabular-nums; }
.fer-bars span:nth-child(3n) { min-width: 3.2em; text-align: right; opacity: .75; }
.fer-track { height: .8rem; border-radius: .4rem; overflow: hidden;
  background: color-mix(in srgb, currentColor 9%, transparent); }
.fer-fill { height: 100%; border-radius: .4rem; transition: width .25s linear; }
.fer-band { width: 100%; height: 7rem; display: block; border-radius: .5rem;
  background: color-mix(in srgb, currentColor 6%, transparent); }
.fer-picture { max-width: 100%; border-radius: .5rem; }
.fer-axis { display: flex; justify-content: space-between; font-size: .8rem; opacity: .75; }
@media (prefers-reduced-motion: reduce) { .fer-emoji, .fer-fill { transition: none; } }
</style>"""

PRIVATE = (
    "Everything is computed on this machine: no picture leaves it, and no usage statistics are "
    "reported."
)
LIMITS = (
    "**What this cannot tell.** It names what a face looks like, following labels on which people "
    "themselves agree only in part. An expression is not an emotion: people smile without being "
    "happy, and grieve without showing it. The model that comes with the package errs most on "
    "fear, sadness, disgust and anger, and any model on light, poses and faces unlike those it "
    "learned from. Judge nobody by it."
)
"""Markdown, for the foot of a page."""


def card(expression: str | None, *, sure: bool = True, note: str = "") -> str:
    """Return an expression as emoji and word; its `data-` attributes say the same to a program.

    Args:
        expression: None: "no face" is shown.
        sure: if False, the word is "perhaps" and the expression, and the emoji is paler.
        note: a line of text below.
    """
    word = "no face" if expression is None else expression if sure else f"perhaps {expression}"
    emoji = EMOJI[expression] if expression else "🫥"
    return (
        f'<div class="fer-card" data-expression="{expression or ""}" '
        f'data-sure="{str(sure or expression is None).lower()}">'
        f'<div class="fer-emoji" aria-hidden="true">{emoji}</div>'
        f'<div class="fer-word">{word}</div>{remark(note)}</div>'
    )


def number_of(number: int, faces: int) -> str:
    """Return the note of the card of a face: its number; "" if it is the only one."""
    return f"face {number}" if faces > 1 else ""


def remark(text: str) -> str:
    """Return a line of text, in a card or below all cards."""
    return f'<div class="fer-note">{escape(text)}</div>'


def one_of(faces: int) -> str:
    """Return the note of the card of one face among several; "" if it is the only one."""
    return f"one of {faces} faces is read here" if faces > 1 else ""


def waiting(note: str) -> str:
    """Return what replaces a card before there is a picture."""
    return (
        '<div class="fer-card" data-expression="">'
        '<div class="fer-emoji" aria-hidden="true">🪞</div>'
        f"{remark(note)}</div>"
    )


def picture(pixels: np.ndarray, name: str) -> str:
    """Return an image, (H, W, 3) uint8, as part of the page itself, so that no file is written."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    data = b64encode(content.getvalue()).decode()
    return f'<img class="fer-picture" alt="{name}" src="data:image/png;base64,{data}">'


def bars(probabilities: Mapping[str, float]) -> str:
    """Return one bar per class, in the given order."""
    rows = (
        f'<span>{name}</span><div class="fer-track"><div class="fer-fill" '
        f'style="width:{100 * p:.1f}%;background:{COLOURS[name]}"></div></div>'
        f"<span>{100 * p:.0f} %</span>"
        for name, p in probabilities.items()
    )
    return f'<div class="fer-bars">{"".join(rows)}</div>'


def band(history: Sequence[tuple[float, Mapping[str, float]]], *, gap: float = GAP) -> str:
    """Return the probabilities of the last `SECONDS`, stacked up to 1, in the bars' colours.

    Args:
        history: (time, probabilities by class), oldest first; time in seconds from now, at most 0.
        gap: seconds without a face above which the band is broken.
    """
    step = 1 + len(history) // 120  # leaves about one point for every pixel or two
    ends = [i for i, (a, b) in enumerate(pairwise(history), 1) if b[0] - a[0] > gap]
    pieces = [history[a:b] for a, b in pairwise([0, *ends, len(history)])]
    thinned = [[*piece[:-1:step], piece[-1]] for piece in pieces if len(piece) > 1]
    areas = "".join(area for piece in thinned for area in stacked(piece))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {100 * SECONDS} 100" '
        f'preserveAspectRatio="none">{areas}</svg>'
    )
    # As an image, because Streamlit removes inline SVG from HTML.
    return (
        f'<img class="fer-band" alt="probabilities of the last {SECONDS} seconds" '
        f'src="data:image/svg+xml,{quote(svg)}">'
        f'<div class="fer-axis"><span>{SECONDS} s ago</span><span>now</span></div>'
    )


def stacked(piece: Sequence[tuple[float, Mapping[str, float]]]) -> list[str]:
    """Return the SVG areas of a piece of the history without gaps, one per class."""
    x = [100 * max(0.0, SECONDS + moment) for moment, _ in piece]
    low, areas = [100.0] * len(piece), []
    for name in piece[0][1]:
        high = [y - 100 * values[name] for y, (_, values) in zip(low, piece, strict=True)]
        outline = [*zip(x, high, strict=True), *reversed([*zip(x, low, strict=True)])]
        points = " ".join(f"{a:.0f},{b:.1f}" for a, b in outline)
        areas.append(f'<polygon points="{points}" fill="{COLOURS[name]}" opacity=".85"/>')
        low = high
    return areas
