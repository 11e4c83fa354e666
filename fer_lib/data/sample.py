"""Sample data: drawn faces with known label errors, votes and copies.

What the audit and the refinement find in these data can be scored exactly. The numbers say nothing
about people.
"""

import numpy as np

from fer_lib.data.counts import FER2013
from fer_lib.data.drawing import draw, draw_objects
from fer_lib.data.faceset import SPLITS, FaceSet
from fer_lib.data.layout_writers import USAGE_OF
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS, VOTES, reorder

IMBALANCE = np.array(FER2013["train"]) / sum(FER2013["train"])
"""Share of each class, the same as among FER2013's training images."""

SHARES = (0.8, 0.1, 0.1)
"""Share of train, valid and test."""

NEIGHBOUR = np.array(
    reorder(EMOTIONS, ("disgust", "angry", "surprise", "neutral", "neutral", "fear", "sad"))
)
"""The class that each class is most easily mistaken for."""

WRONG_ODDS = np.array([1.2, 1.2, 1.8, 0.3, 1.3, 0.8, 1.0])
"""How often a label of each class is wrong, relative to the average."""

ALIKE = 6  # odds that the neighbour is the truth, against another class of equal frequency
NOT_A_FACE = 0.004  # share of images that show no face, as in FER2013
NEAR_PER_COPY = 0.2  # near copies for each exact copy
MIXED = 0.3  # share of images between their expression and that of the neighbour


def make_sample(
    n: int = 3000, seed: int = 0, *, wrong: float = 0.1, copies: float = 0.05
) -> FaceSet:
    """Draw the sample data set; the same arguments give the same bytes on every machine.

    Args:
        n: number of images, at least 100.
        seed: seed of everything that is random.
        wrong: share of labels that differ from what was drawn (`truth`), 0 to 0.4.
        copies: share of images that are byte-identical copies of another one, 0 to 0.2.

    Returns:
        FaceSet "sample" of (n, 1, 48, 48) images with `votes` (ten annotators), `truth`, and
        `manifest["planted"]`: the numbers `wrong_labels` (images whose label is not the truth),
        `exact_groups` (of copies), `exact_images` (in those groups), `groups_across_splits` and
        `conflicting_groups` (with more than one label); `near` (pairs of ids: the first image is
        the second one mirrored, or a little brighter); `not_a_face` (ids; their truth is their
        label).

    Raises:
        InputError: an argument is outside its range.
    """
    _check_range("n", n, 100, 9_999_999)
    _check_range("wrong", wrong, 0, 0.4)
    _check_range("copies", copies, 0, 0.2)
    rng = np.random.default_rng([seed, 7])
    split, labels = _rows(n, rng)
    source, near = _copies(labels, round(copies * n), round(wrong * n), rng)
    shows = source.copy()  # row whose face (in near copies, with other bytes) each row shows
    shows[near[:, 0]] = near[:, 1]
    single = np.bincount(shows, minlength=n) == 1
    objects = rng.choice(np.flatnonzero(single), max(1, round(NOT_A_FACE * n)), replace=False)
    single[objects] = False
    truth = labels[shows]
    _mislabel(labels, truth, single, round(wrong * n) - int((labels != truth).sum()), rng)
    intensity = (0.5 + 0.75 * rng.random((2, n)).max(0))[shows]
    mix = np.where(rng.random(n) < MIXED, 0.7 * rng.random(n), 0.12 * rng.random(n))[shows]
    images = draw(truth, seed, neighbour=NEIGHBOUR[truth], mix=mix, intensity=intensity)
    images[objects] = draw_objects(len(objects), seed)
    images = images[source]
    _plant_near(images, near)
    ids = np.array([f"{USAGE_OF[part]}_{row:07d}" for row, part in enumerate(split)])
    planted = {
        "wrong_labels": int((labels != truth).sum()),
        **_groups(source, labels, split),
        "near": ids[near].tolist(),
        "not_a_face": ids[np.sort(objects)].tolist(),
    }
    manifest = {
        "layout": "drawn",
        "mark": "sample data",
        "source": f"{n} faces drawn by fer_lib with seed {seed}: they show no person",
        "dropped": {},
        "remarks": [],
        "planted": planted,
    }
    votes = _votes(truth, intensity, mix, objects, rng)
    return FaceSet("sample", images, labels, split, ids, EMOTIONS, votes, truth, manifest)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"sample data: {name} is {value}, choose {low} to {high}")


def _rows(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return split (n,), ordered train, valid, test, and labels (n,); FER2013's shares in each."""
    sizes = np.diff(np.round(np.cumsum((0, *SHARES)) * n).astype(int))
    labels = []
    for size in sizes:
        exact = IMBALANCE * size
        counts = np.maximum(np.floor(exact), 1).astype(int)
        while counts.sum() != size:
            step = 1 if counts.sum() < size else -1
            counts[np.argmax(step * (exact - counts))] += step
        labels.append(rng.permutation(np.repeat(np.arange(len(EMOTIONS)), counts)))
    return np.repeat(SPLITS, sizes), np.concatenate(labels).astype(np.int64)


def _copies(
    labels: np.ndarray, number: int, wrong: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the source row of each row, (n,), and the near copies, (K, 2), as copy and source.

    One exact copy in ten has another label than its source, until `wrong` copies have one.
    """
    source = np.arange(len(labels))
    # Few sources for many copies, so that some groups have three or more images.
    sources, rest = np.split(rng.permutation(len(labels)), [2 * number])
    made = 0
    for row in rest:
        conflict = made % 10 == 0 and made // 10 < wrong
        label = NEIGHBOUR[labels[row]] if conflict else labels[row]
        candidates = sources[labels[sources] == label]
        if made < number and len(candidates):
            source[row] = rng.choice(candidates)
            made += 1
    free = rest[source[rest] == rest]
    near_rows, near_sources = np.split(free, [round(NEAR_PER_COPY * number)])
    near = []
    for row in near_rows:
        same = near_sources[labels[near_sources] == labels[row]]
        if len(same):
            near.append((row, same[0]))
            near_sources = near_sources[near_sources != same[0]]
    return source, np.array(near, np.int64).reshape(-1, 2)


def _plant_near(images: np.ndarray, near: np.ndarray) -> None:
    """Make every second near copy the mirror image of its source, the others a little brighter."""
    mirrored, brighter = near[0::2], near[1::2]
    images[mirrored[:, 0]] = images[mirrored[:, 1], ..., ::-1]
    images[brighter[:, 0]] = (images[brighter[:, 1]] * 0.93 + 14).astype(np.uint8)


def _mislabel(
    labels: np.ndarray,
    truth: np.ndarray,
    single: np.ndarray,
    number: int,
    rng: np.random.Generator,
) -> None:
    """Change the truth of `number` of the `single` rows, preferably to a frequent or similar class.

    Without the frequencies, most faces of the rarest class would carry the label of its neighbour,
    and no method could recognise them.
    """
    rows = np.flatnonzero(single)
    odds = WRONG_ODDS[labels[rows]]
    rows = rng.choice(rows, number, replace=False, p=odds / odds.sum())
    kinds = np.arange(len(EMOTIONS))
    chance = IMBALANCE * np.where(NEIGHBOUR[labels[rows], None] == kinds, ALIKE, 1)
    chance[labels[rows, None] == kinds] = 0
    below = np.cumsum(chance, axis=1)
    truth[rows] = (rng.random((len(rows), 1)) * below[:, -1:] >= below).sum(1)


def _groups(source: np.ndarray, labels: np.ndarray, split: np.ndarray) -> dict[str, int]:
    """Count the groups of rows with byte-identical images."""
    copies = source != np.arange(len(source))
    members = [np.flatnonzero(source == row) for row in np.unique(source[copies])]
    return {
        "exact_groups": len(members),
        "exact_images": sum(map(len, members)),
        "groups_across_splits": sum(len(set(split[rows])) > 1 for rows in members),
        "conflicting_groups": sum(len(set(labels[rows])) > 1 for rows in members),
    }


def _votes(
    truth: np.ndarray,
    intensity: np.ndarray,
    mix: np.ndarray,
    objects: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the votes, (n, 10) float32, of ten annotators less sure of weak or mixed expressions."""
    sure = (0.45 + 0.45 * intensity).clip(0, 0.95) * (1 - mix)
    chance = np.full((len(truth), len(VOTES)), 0.02)
    chance[:, VOTES.index("unknown")] = 0.06
    chance[:, VOTES.index("not a face")] = 0.003
    chance *= (1 - sure)[:, None]
    rest = 1 - sure - chance.sum(1)
    rows = np.arange(len(truth))
    chance[rows, NEIGHBOUR[truth]] += 0.7 * rest
    chance[rows, EMOTIONS.index("neutral")] += 0.3 * rest
    chance[rows, truth] += sure
    chance[objects] = np.eye(len(VOTES))[VOTES.index("not a face")]
    return rng.multinomial(10, chance / chance.sum(1, keepdims=True)).astype(np.float32)
