"""Drawn faces: a parametric grey face whose brows, lids, nose and mouth make an expression.

The expressions follow the action units of Ekman and Friesen's Facial Action Coding System: happy
6+12, sad 1+4+15, surprise 1+2+5+26, fear 1+2+4+5+20+26, angry 4+5+7+23, disgust 9+10+15 with an
asymmetry. Only additions, products, divisions and square roots are applied to pixels, and IEEE 754
rounds these alike everywhere: so a seed gives the same bytes on every machine.
"""

from types import SimpleNamespace

import numpy as np

from fer_lib.data.face_parts import brows, eyes, head, mouth, nose, paint
from fer_lib.labels import EMOTIONS

AXES = (
    *("inner", "outer", "pinch"),  # brow: inner end up, outer end up, drawn together
    *("lid", "squint", "cheek", "wrinkle"),  # upper lid up, lower lid up, cheek, nose wrinkle
    *("width", "corner", "open", "lip", "teeth", "press", "skew"),  # mouth; skew: one side higher
)
"""Degrees of freedom of an expression: 0 is relaxed, 1 is about as far as it goes."""

PROTOTYPES = {
    "angry": dict(inner=-1, outer=0.35, pinch=1, lid=0.3, squint=0.6, corner=-0.3, press=0.9),
    "disgust": dict(inner=-0.6, outer=-0.3, pinch=0.6, lid=-0.5, squint=0.8, cheek=0.6)
    | dict(wrinkle=1, corner=-0.7, open=0.12, lip=1, teeth=0.6, skew=0.8),
    "fear": dict(inner=1, outer=0.3, pinch=0.7, lid=0.85, width=0.5, corner=-0.3, open=0.45)
    | dict(teeth=0.4),
    "happy": dict(outer=0.1, lid=-0.2, squint=0.7, cheek=1, width=0.6, corner=1, open=0.45)
    | dict(teeth=0.9),
    "sad": dict(inner=1, outer=-0.7, pinch=0.5, lid=-0.55, width=-0.1, corner=-1, press=0.1),
    "surprise": dict(inner=0.9, outer=1, lid=1, width=-0.45, open=1),
    "neutral": {},
}
"""Values of each expression on `AXES`; 0 for those that are left out."""

VARIANTS = {
    "angry": dict(open=0.4, teeth=1, press=-0.9, wrinkle=0.3, width=0.2),  # shouting
    "disgust": dict(open=-0.1, lip=-0.3, pinch=0.3),
    "fear": dict(open=-0.2, teeth=0.3, width=0.2),
    "happy": dict(open=-0.45, teeth=-0.9),  # lips closed
    "sad": dict(open=0.2, lid=-0.3),
    "surprise": dict(open=-0.45, width=0.2, teeth=0.3),
    "neutral": dict(corner=-0.15, lid=-0.15),
}
"""What another way to show an expression adds to `PROTOTYPES`; faces get a random share of it."""

TRAITS = (
    *("shift_x", "shift_y", "scale", "turn", "yaw"),  # pose
    *("head_width", "jaw", "eye_size", "eye_gap", "brow_width", "brow_height", "mouth_size"),
    *("lips", "nose", "gaze", "light_x", "light_y", "contrast", "hairline", "parting"),
)
"""Traits that differ from face to face: standard normal, clipped to -2.2..2.2."""

CHANCES = (
    *("variant", "tone", "dye", "backdrop", "cloth", "long_hair", "beard", "glasses", "age"),
    *("blur", "grain"),
)
"""Traits that differ from face to face: uniform in 0..1."""

SUPERSAMPLING = 2  # in each direction
CHUNK = 3  # faces at a time: malloc reuses such small arrays; from 128 KiB on, it gets new pages


def draw(
    emotion: np.ndarray,
    seed: int,
    *,
    neighbour: np.ndarray | None = None,
    mix: np.ndarray | float = 0.0,
    intensity: np.ndarray | float = 1.0,
    rough: float = 1.0,
    size: int = 48,
) -> np.ndarray:
    """Draw one face for each entry of `emotion`; face i depends on `seed`, i and its own entries.

    Args:
        emotion: (N,) int, index into `labels.EMOTIONS`.
        seed: seed of the persons, poses, light and noise.
        neighbour: (N,) int, the expression to mix in, or None for no mixing.
        mix: (N,) or one number in 0..1, the share of the neighbour's expression.
        intensity: (N,) or one number; 0 is relaxed, 1 is the full expression.
        rough: how far pose, light, blur and noise go; 0 gives clean, upright faces.
        size: height and width in pixels.

    Returns:
        (N, 1, size, size) uint8.
    """
    n = len(emotion)
    rng = np.random.default_rng([seed, 0])
    normal = rng.standard_normal((n, len(AXES) + len(TRAITS))).clip(-2.2, 2.2)
    uniform = np.random.default_rng([seed, 1]).random((n, len(CHANCES)))
    prototype = _table(PROTOTYPES)
    shown = prototype[emotion] + uniform[:, :1] * _table(VARIANTS)[emotion]
    if neighbour is not None:
        shown += np.broadcast_to(mix, n)[:, None] * (prototype[neighbour] - shown)
    shown *= np.broadcast_to(intensity, n)[:, None]
    normal[:, : len(AXES)] = shown + 0.09 * rough * normal[:, : len(AXES)]
    numbers = np.hstack([normal, uniform]).astype(np.float32)
    images = np.empty((n, 1, size, size), np.uint8)
    for start in range(0, n, CHUNK):
        picture = _render(numbers[start : start + CHUNK], size, rough)
        noise = np.random.default_rng([seed, 2, start])
        grain = rough * (0.012 + 0.02 * numbers[start : start + CHUNK, -1:, None] ** 2)
        picture += grain * noise.standard_normal(picture.shape, dtype=np.float32)
        images[start : start + CHUNK, 0] = np.floor(picture.clip(0, 1) * 255 + 0.5)
    return images


def _table(expressions: dict[str, dict[str, float]]) -> np.ndarray:
    """Return the expressions as an array (7, len(AXES)) float64."""
    return np.array([[expressions[name].get(axis, 0) for axis in AXES] for name in EMOTIONS])


def _render(numbers: np.ndarray, size: int, rough: float) -> np.ndarray:
    """Draw faces without noise from (n, AXES + TRAITS + CHANCES): (n, size, size) float32."""
    columns = numbers.T[:, :, None, None]
    f = SimpleNamespace(**dict(zip((*AXES, *TRAITS, *CHANCES), columns, strict=True)))
    _place(f, SUPERSAMPLING * size, rough)
    f.skin = 0.42 + 0.42 * f.tone
    f.hair = 0.05 + 0.8 * f.dye * f.dye * f.skin
    image = (0.1 + 0.75 * f.backdrop) * (1 + 0.15 * f.light_y * f.v) + 0 * f.u
    for part in (head, nose, mouth, eyes, brows):
        part(image, f)
    image *= 1 + rough * (0.1 * f.light_x * f.u + 0.05 * f.light_y * f.v)
    image = 0.47 + (image - 0.45) * (1 + 0.1 * f.contrast)
    step = SUPERSAMPLING
    small = sum(image[:, i::step, j::step] for i in range(step) for j in range(step))
    return _blur(small / np.float32(step * step), 0.22 * rough * f.blur * f.blur)


def _place(f: SimpleNamespace, pixels: int, rough: float) -> None:
    """Add the coordinates of the pixels to `f`: u, v (picture, -1..1), x, y (head) and `across`.

    `across` is the signed distance from the midline of the face, which a turn of the head (yaw)
    moves; `away` is its absolute value and `side` its sign; `soft` is the width of an edge.
    """
    axis = ((np.arange(pixels) + 0.5) * 2 / pixels - 1).astype(np.float32)
    f.u, f.v, f.soft = axis[None, None, :], axis[None, :, None], np.float32(2.4 / pixels)
    turn = 0.1 * rough * f.turn.astype(np.float64)
    cos, sin = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)
    a, b = f.u - 0.06 * rough * f.shift_x, f.v - 0.05 * rough * f.shift_y
    scale = 1 + 0.06 * rough * f.scale
    f.x, f.y = (a * cos + b * sin) / scale, (b * cos - a * sin) / scale
    f.across = f.x - 0.09 * rough * f.yaw * (1 - f.x * f.x).clip(0)
    f.away, f.side = np.abs(f.across), np.sign(f.across)


def _blur(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mix each pixel with its neighbours by `weight` (n, 1, 1), along columns, then along rows."""
    wide = np.pad(image, [(0, 0), (1, 1), (0, 0)], mode="edge")
    image = image + weight * (wide[:, :-2] + wide[:, 2:] - 2 * image)
    wide = np.pad(image, [(0, 0), (0, 0), (1, 1)], mode="edge")
    return image + weight * (wide[:, :, :-2] + wide[:, :, 2:] - 2 * image)


def draw_objects(n: int, seed: int, size: int = 48) -> np.ndarray:
    """Draw pictures of a few plain shapes without a face: (n, 1, size, size) uint8."""
    rng = np.random.default_rng([seed, 3])
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    image = np.broadcast_to(rng.random((n, 1, 1)), (n, size, size)).copy()
    for k in range(5):
        x, y, width, height, tone = rng.random((5, n, 1, 1))
        u = (axis[None, None, :] - 1.6 * x + 0.8) / (0.1 + 0.5 * width)
        v = (axis[None, :, None] - 1.6 * y + 0.8) / (0.1 + 0.5 * height)
        inside = np.maximum(np.abs(u), np.abs(v)) if k % 2 else np.sqrt(u * u + v * v)
        paint(image, tone, ((1 - inside) * 8).clip(0, 1))
    image += 0.02 * rng.standard_normal(image.shape)
    return np.floor(image.clip(0, 1) * 255 + 0.5).astype(np.uint8)[:, None]
