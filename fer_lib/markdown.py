"""Format tables as Markdown, and write them between two marker lines of a README."""

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.files import InputError, replacing

START, END = "<!-- results -->", "<!-- /results -->"
"""The marker lines of a README; its table is between them."""


def markdown(table: pd.DataFrame) -> str:
    """Format a table with its index as Markdown.

    Floats have four significant digits; the cells of missing values are empty.
    """
    cells = [[table.index.name or "", *table.columns], ["---"] * (1 + table.shape[1])]
    cells += [[index, *row] for index, *row in table.itertuples()]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in cells)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def around_table(readme: Path) -> tuple[str, str]:
    """Return the text before the first and after the second marker of a README.

    Raises:
        InputError: the README is missing, or does not have both markers, once each and in order.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{readme} does not exist: run from the root of the repository") from None
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest or END in before + after:
        raise InputError(
            f"{readme} must have the lines {START} and {END}, once each and in this order: put "
            "them where the table belongs"
        )
    return before, after


def write_table(readme: Path, table: pd.DataFrame) -> None:
    """Write a table between the two markers of a README, and replace what was there.

    Args:
        table: its first column becomes the index.

    Raises:
        InputError: see `around_table`.
    """
    before, after = around_table(readme)
    with replacing(readme) as temporary:
        text = markdown(table.set_index(table.columns[0]))
        temporary.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")
