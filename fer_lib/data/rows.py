"""Reading a CSV file as rows of text, for the tables of FER2013 and FERPlus."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fer_lib.files import InputError, first_line

if TYPE_CHECKING:
    from pandas import DataFrame


def read_rows(source: Path | BinaryIO, name: str | Path) -> "DataFrame":
    """Return the rows of a CSV file: all fields are text, "" if they are missing.

    The index numbers the rows like lines in a text editor: the header is 1. Empty lines are left
    out, and so is a comma at the end of each row that the header lacks.

    Args:
        name: of the file, for messages.

    Raises:
        InputError: it is not a CSV file, or its rows have more fields than the header.
        OSError: it cannot be read.
    """
    import pandas as pd  # takes a second, and predictions do not need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of fields without a column
            rows = pd.read_csv(
                source,
                dtype=str,
                skipinitialspace=True,
                skip_blank_lines=False,
                index_col=False,  # else a comma at the end of each row shifts all of its fields
            )
    except (ValueError, pd.errors.ParserWarning) as error:
        raise InputError(
            f"{name} cannot be read as CSV ({first_line(error)}): download it again"
        ) from None
    rows.index = range(2, len(rows) + 2)
    return rows.rename(columns=str.strip).dropna(how="all").fillna("")
