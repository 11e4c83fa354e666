"""Splits for data without any: stratified by class, with all copies of an image on one side.

They are the same on every machine and for any order of the images: groups are ordered by a hash
of the seed and of their content, without a random generator.
"""

import hashlib

import numpy as np

from fer_lib.data.copies import copy_groups, near_copies
from fer_lib.data.faceset import FaceSet


def group_keys(images: np.ndarray) -> np.ndarray:
    """Return a key for each image, which depends on content only and is shared by all its copies.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        (N,) str: the smallest SHA-256 (hex) among the image and its exact and near copies, their
        copies, and so on.
    """
    exact = copy_groups(images)
    _, first = np.unique(exact, return_index=True)
    keys = np.array([hashlib.sha256(np.ascontiguousarray(images[i])).hexdigest() for i in first])
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = exact[near_copies(images).pairs].T
    links = coo_array((np.ones(joined.shape[1]), tuple(joined)), (len(keys), len(keys)))
    _, component = connected_components(links, directed=False)
    smallest: dict[int, str] = {}
    for one, key in zip(component.tolist(), keys.tolist(), strict=True):
        smallest[one] = min(key, smallest.get(one, key))
    return np.array([smallest[one] for one in component.tolist()])[exact]


def grouped_split(
    labels: np.ndarray, groups: np.ndarray, fractions: dict[str, float], seed: int
) -> np.ndarray:
    """Split by groups, class by class.

    A group counts for the class that most of its members have. Each split except the first gets its
    fraction of every class, rounded to whole images: exactly if the sizes of the groups allow it,
    and never more. The first split gets the rest, which is less than its fraction where the others
    are rounded up: of 36 images without copies in ten equal splits, it gets 1. But if a class has
    at least as many groups as there are splits, each split gets one at least: a split without any
    gets the smallest one of the first split or, if that has none to spare, of the split with the
    most groups.

    Args:
        labels: (N,) int64.
        groups: (N,) keys, equal for images that must stay together; see `group_keys`.
        fractions: share of each split, as in `{"train": 0.8, "valid": 0.1, "test": 0.1}`.

    Returns:
        (N,) str, the split of each image.
    """
    keys, group = np.unique(groups, return_inverse=True)
    size = np.bincount(group)
    votes = np.zeros((len(keys), labels.max(initial=0) + 1), np.int64)
    np.add.at(votes, (group, labels), 1)
    label = votes.argmax(1)
    rest, *others = fractions
    place = np.full(len(keys), rest, dtype=object)
    order = np.argsort([hashlib.sha256(f"{seed}|{key}".encode()).hexdigest() for key in keys])
    for k in np.unique(label):
        members = order[label[order] == k]
        quota = {name: round(fractions[name] * size[members].sum()) for name in others}
        if len(members) >= len(fractions):
            quota = {name: max(1, number) for name, number in quota.items()}
        for row in members:
            name = next((name for name in others if size[row] <= quota[name]), rest)
            place[row] = name
            if name != rest:
                quota[name] -= size[row]
        if len(members) < len(fractions):
            continue
        for name in fractions:
            inside = {one: members[place[members] == one] for one in fractions}
            if len(inside[name]):
                continue
            giver = inside[rest] if len(inside[rest]) > 1 else max(inside.values(), key=len)
            place[giver[size[giver].argmin()]] = name
    return place[group].astype(str)


SEED = 0
"""Seed of every split that is drawn, the same on all machines and for all runs."""


def draw_split(faces: FaceSet, fractions: dict[str, float]) -> None:
    """Split again, in place, the faces that are now in one of the splits of `fractions`.

    Two of them that are near copies of the same image stay together, even if that image is in
    another split. The manifest records how the split was drawn.
    """
    rows = np.flatnonzero(np.isin(faces.split, list(fractions)))
    groups = group_keys(faces.images)[rows]
    split = faces.split.astype("<U5")
    split[rows] = grouped_split(faces.labels[rows], groups, fractions, SEED)
    faces.split = split
    faces.manifest["split"] = {"official": False, "seed": SEED, "fractions": fractions}
