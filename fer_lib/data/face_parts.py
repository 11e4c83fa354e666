"""The parts of a drawn face, each painted over the pictures of several faces at once.

Every part changes `image` in place: (n, H, W) float32 from 0 (black) to 1 (white). `f`, which
`drawing` makes, has the numbers of each face, (n, 1, 1), and the coordinates of the pixels, which
broadcast to (n, H, W): a head reaches from about -0.72 to 0.72 in x and -1 to 1 in y, which points
down.
"""

from types import SimpleNamespace

import numpy as np

Cover = np.ndarray | float


def paint(image: np.ndarray, tone: Cover, cover: Cover) -> None:
    """Blend `tone` into the image in place, with the opacity `cover` (0..1) of each pixel."""
    image += cover * (tone - image)


def between(y: np.ndarray, low: Cover, high: Cover, soft: Cover) -> np.ndarray:
    """Return the cover (0..1) of the band low < y < high, whose edges are `soft` wide."""
    return ((y - low) / soft + 0.5).clip(0, 1) * ((high - y) / soft + 0.5).clip(0, 1)


def blob(x: Cover, y: Cover, width: Cover, height: Cover) -> np.ndarray:
    """Return a soft spot at the origin: 1 in the middle, 0.25 at `width` or `height` from it."""
    q = 1 + (x / width) ** 2 + (y / height) ** 2
    return 1 / (q * q)


def head(image: np.ndarray, f: SimpleNamespace) -> None:
    """Paint hair, neck, clothes, ears, the head with its light and shade, and a beard for some."""
    long = ((f.long_hair - 0.5) * 4).clip(0, 1)
    width = 0.72 + 0.035 * f.head_width
    back = 0.98 - (f.x / (width + 0.06 + 0.12 * long)) ** 2 - ((f.y + 0.03) / 1.06) ** 2
    below = ((1.3 * long - f.y) / 0.25).clip(0, 1)
    paint(image, f.hair, (back * 8 + 0.5).clip(0, 1) * below)
    paint(image, f.skin * 0.6, between(f.x, -0.36, 0.36, 0.1) * ((f.y - 0.5) / 0.05).clip(0, 1))
    shirt = (f.y - 1.02 + 0.12 * (1 - f.x * f.x)) / 0.06
    paint(image, 0.15 + 0.6 * f.cloth, shirt.clip(0, 1))
    ear = blob(np.abs(f.x) - width - 0.01, f.y + 0.1, 0.06, 0.16)
    paint(image, f.skin * 0.8, (1 - long) * ((ear - 0.25) * 5).clip(0, 1))
    down, chin = f.y.clip(0), 0.95 + 0.07 * f.open
    narrow = width * (1 - (0.16 + 0.05 * f.jaw) * down * down)
    r = (f.x / narrow) ** 2 + (f.y / np.where(f.y > 0, chin, 1)) ** 2
    face = ((1 - r) * 0.5 / f.soft).clip(0, 1)
    paint(image, f.skin * (1.04 - 0.28 * r.clip(0, 1.2)), face)
    image -= face * f.skin * 0.1 * blob(f.away - 0.4, f.y + 0.22, 0.2, 0.14)
    image += face * f.skin * 0.1 * blob(f.away - 0.42, f.y - 0.2, 0.2, 0.2)
    beard = ((f.beard - 0.75) * 2).clip(0, 0.4) * ((0.5 - f.long_hair) * 8).clip(0, 1)
    paint(image, f.hair, beard * face * ((f.y - 0.52 + 0.3 * f.away) / 0.12).clip(0, 1))
    line = -0.72 + 0.06 * f.hairline + 0.35 * (f.x - 0.12 * f.parting) ** 2
    paint(image, f.hair, ((line - f.y) / 0.07).clip(0, 1) * ((1.2 - r) / 0.15).clip(0, 1) * below)


def nose(image: np.ndarray, f: SimpleNamespace) -> None:
    """Paint ridge, tip, nostrils, the wrinkles of disgust and the folds from nose to mouth."""
    tip = 0.2 + 0.02 * f.nose - 0.05 * f.wrinkle
    half = 0.13 + 0.012 * f.nose + 0.02 * f.wrinkle
    dark, lit = f.skin * 0.45, 0.1 * np.sign(f.light_x)
    image -= 0.1 * f.skin * between(f.y, -0.3, tip, 0.25) * blob(f.across + lit, 0, 0.06, 1)
    image += 0.06 * f.skin * blob(f.across, f.y - tip + 0.06, 0.07, 0.12)
    nostril = 1.5 * blob(f.away - half * 0.55, f.y - tip, 0.045, 0.03) - 0.3
    paint(image, dark, 0.8 * nostril.clip(0, 1))
    paint(image, dark, 0.4 * blob(f.away - half, f.y - tip + 0.04, 0.02, 0.05))
    for k in range(3):
        y = f.y + 0.16 - 0.1 * k + 0.35 * f.away
        crease = between(y, -0.018, 0.018, 1.5 * f.soft) * between(f.away, 0.02, 0.2, 0.06)
        paint(image, dark, (0.75 * f.wrinkle).clip(0, 1) * crease)
    depth = (0.08 + 0.14 * f.age + 0.45 * f.cheek + 0.35 * f.wrinkle).clip(0, 0.75)
    down = (f.y - tip + 0.03) / 0.34
    path = half + 0.03 + (0.22 + 0.08 * f.cheek) * down * (1.5 - 0.5 * down)
    fold = between(f.away - path, -0.02, 0.02, 2 * f.soft) * between(down, 0, 0.85, 0.3)
    paint(image, dark, depth * fold)


def mouth(image: np.ndarray, f: SimpleNamespace) -> None:
    """Paint the lips along a line through the corners, the mouth's opening, teeth and shadows."""
    half = (0.3 + 0.018 * f.mouth_size) * (1 + 0.32 * f.width)
    s = f.across / half  # -1 and 1 at the corners
    u = (1 - s * s).clip(0)
    root = np.sqrt(u)
    opened, raised = f.open.clip(0), f.lip.clip(0)
    line = 0.5 - 0.04 * raised - 0.14 * f.corner * (s * s - 0.4).clip(-1, 1.2) - 0.06 * f.skew * s
    arc = u + (root - u) * (1 - f.corner).clip(0, 1)  # a smile is pointed, other mouths are round
    top = line - arc * (0.15 * opened + 0.1 * raised * (0.6 + 0.4 * s * np.sign(f.skew)))
    low = line + arc * 0.3 * opened
    within = (u * half * 0.9 / f.soft).clip(0, 1)
    thick = (1 - 0.65 * f.press.clip(0, 1)) * (1 + 0.12 * f.lips) * root
    lips = between(f.y, top - 0.055 * thick, low + 0.085 * thick, f.soft)
    paint(image, f.skin * 0.55, lips * within)
    paint(image, 0.06, between(f.y, top - 0.012, low + 0.012, f.soft) * within)
    bite = top + (low - top) * 0.9 * f.teeth.clip(0, 1)
    teeth = between(f.y, top + 0.012, bite, f.soft) * within * ((low - top) / 0.1).clip(0, 1)
    paint(image, 0.95, teeth * (4 * f.teeth).clip(0, 1))
    image -= 0.09 * f.skin * blob(f.across, f.y - low - 0.17, 0.2, 0.04)
    pull = (-f.corner).clip(0, 1) * blob(f.away - half - 0.02, f.y - line - 0.07, 0.03, 0.09)
    paint(image, f.skin * 0.5, 0.6 * pull)


def eyes(image: np.ndarray, f: SimpleNamespace) -> None:
    """Paint eyeball, iris and glint between the lids, lashes, and the creases above and below."""
    half = 0.18 + 0.01 * f.eye_size
    out = f.away - 0.345 - 0.012 * f.eye_gap
    s = out / half  # -1 at the inner, 1 at the outer corner
    u = (1 - s * s).clip(0)
    level = -0.2 + s * (0.025 * (f.inner - f.outer).clip(-0.5, 1.5) - 0.015)
    upper = level - u * (0.085 + 0.006 * f.eye_size + 0.075 * f.lid).clip(0.015)
    under = level + u * (0.065 + 0.02 * f.lid - 0.05 * f.squint)
    within = (u * half / f.soft).clip(0, 1)
    opening = between(f.y, upper, under, f.soft) * within
    paint(image, 0.72 + 0.25 * f.skin, opening)
    iris = out - 0.02 * f.gaze * f.side
    distance = np.sqrt(iris * iris + (f.y + 0.21) ** 2)
    paint(image, 0.1, opening * ((0.088 - distance) / f.soft + 0.5).clip(0, 1))
    glint = (iris - 0.03) ** 2 + (f.y + 0.245) ** 2
    paint(image, 0.9, opening * ((0.0007 - glint) * 900).clip(0, 1))
    paint(image, 0.08, 0.9 * within * between(f.y, upper - 0.026, upper + 0.012, f.soft))
    paint(image, f.skin * 0.5, 0.6 * within * between(f.y, under - 0.008, under + 0.014, f.soft))
    crease = within * between(f.y, upper - 0.085, upper - 0.065, 1.5 * f.soft)
    paint(image, f.skin * 0.6, 0.5 * crease)
    bag = within * between(f.y, under + 0.06, under + 0.085, 2 * f.soft)
    paint(image, f.skin * 0.6, (0.6 * f.squint + 0.3 * f.cheek).clip(0, 0.7) * bag)


def brows(image: np.ndarray, f: SimpleNamespace) -> None:
    """Paint brows, the lines between them, furrows of a raised forehead, and glasses for some."""
    start = 0.13 - 0.05 * f.pinch
    s = (f.away - start) / (0.6 - start)  # 0 at the inner, 1 at the outer end
    arch = (0.16 + 0.14 * (f.outer + f.inner - f.pinch).clip(0)) * s * (1 - s)
    level = -0.43 + 0.012 * f.brow_height - arch + 0.05 * f.pinch * (1 - s) + 0.03 * f.squint
    level = level - 0.115 * f.inner * (1 - s) ** 2 - 0.09 * f.outer * s.clip(0) ** 2
    thick = (0.042 + 0.007 * f.brow_width) * (1.15 - 0.6 * s)
    brow = between(f.y, level - thick, level + thick, 1.3 * f.soft) * between(s, 0, 1, 3 * f.soft)
    paint(image, 0.7 * f.hair, 0.92 * brow)
    frown = between(f.away, 0.035, 0.07, 1.5 * f.soft) * between(f.y, -0.52, -0.32, 0.08)
    paint(image, f.skin * 0.4, (0.6 * f.pinch * (f.inner < 0.3)).clip(0, 0.6) * frown)
    for k in range(3):
        y = f.y + 0.6 + 0.065 * k - 0.1 * f.across * f.across
        furrow = between(y, -0.012, 0.012, 1.5 * f.soft) * between(f.away, -1, 0.4, 0.2)
        paint(image, f.skin * 0.4, (0.4 * f.inner).clip(0, 0.35) * furrow)
    ring = np.sqrt((f.away - 0.345) ** 2 / 1.25 + (f.y + 0.19) ** 2)
    bridge = between(f.y, -0.22, -0.19, f.soft) * between(f.away, -1, 0.12, f.soft)
    frame = np.maximum(between(ring, 0.205, 0.235, f.soft), bridge)
    paint(image, 0.15, np.where(f.glasses > 0.92, np.float32(0.8), 0) * frame)
