"""The known numbers of images of the public datasets, and how the loaded faces differ from them."""

import numpy as np

from fer_lib.data.faceset import SPLITS, FaceSet

FER2013 = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "valid": (467, 56, 496, 895, 653, 415, 607),
    "test": (491, 55, 528, 879, 594, 416, 626),
}
"""Number of images by split and class, in the order of `labels.EMOTIONS`."""

TOTALS = {
    "ferplus": {"train": 25_060, "valid": 3_199, "test": 3_153},
    "rafdb": {"train": 12_271, "valid": 0, "test": 3_068},
}
"""Number of images by split: FERPlus in its `majority` mode, RAF-DB's basic set."""


def differences(faces: FaceSet) -> list[str]:
    """Compare the numbers of images with those that the dataset is known to have.

    Splits that were drawn from the same images are compared as one.

    Returns:
        A list of one sentence if the numbers differ, else an empty list, also for a dataset whose
        numbers are not known here.
    """
    together = tuple(faces.manifest["split"].get("fractions", ()))
    parts = [(split,) for split in SPLITS if split not in together]
    if together:
        parts.append(together)
    if faces.name == "fer2013":
        known = {split: np.array(counts) for split, counts in FER2013.items()}
        # Without Usage, the folder test/ holds the images of two splits, and the mark says so.
        if faces.mark.startswith("test = "):
            known = {"train": known["train"], "test": known["valid"] + known["test"]}
    elif faces.name in TOTALS:
        known = {split: np.array([total]) for split, total in TOTALS[faces.name].items()}
    else:
        return []
    found = []
    for part in parts:
        expected = sum(known[split] for split in part if split in known)
        number = np.bincount(faces.labels[np.isin(faces.split, part)], minlength=7)
        where, total = " and ".join(part), number.sum()
        if total != expected.sum():
            found.append(f"{where} {total:,} images instead of {expected.sum():,}")
        elif len(expected) > 1 and not np.array_equal(number, expected):
            found.append(f"{where} with other numbers of images per class")
    return [f"these are not the known counts of {faces.name}: {'; '.join(found)}"] if found else []


def mark(faces: FaceSet) -> str:
    """Return the caveat for tables and figures of faces that differ from the dataset of their name.

    There is one if the counts differ from the known ones or, for FER2013 and FERPlus, if the split
    was drawn; else the result is "".
    """
    if differences(faces):
        return f"other counts than the known {faces.name}"
    drawn = faces.name in ("fer2013", "ferplus") and not faces.manifest["split"]["official"]
    return f"{faces.name} with a drawn split" if drawn else ""
