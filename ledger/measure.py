"""Measure the worst errors of all losses against ball arithmetic, and keep the record of them.

    python ledger/measure.py                measure all, and write the record if nothing got worse
    python ledger/measure.py --only NAME    measure a loss, and write its lines alone
    python ledger/measure.py --accept       write what got worse too; say why in the commit

Refused are errors over the bound in a docstring, on any machine, and errors that are larger than
those recorded for the same family of processors.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import binary
import family
import record
from record import Key, Line

Job = Callable[[], Sequence[Line]]


def jobs(only: Sequence[str] = ()) -> Iterator[Job]:
    """Every measurement, or those of the losses of these names; each can be sent to a process."""
    if not only or binary.LOSS in only:
        for gamma in binary.GAMMAS:
            yield from (partial(binary.measure, dtype, gamma) for dtype in binary.DTYPES)
    for dtype in family.DTYPES:
        for subject in family.subjects(dtype):
            if not only or subject.name in only or _loss_of(subject.name) in only:
                yield partial(family.measure_subject, subject.name, dtype)


def _loss_of(subject: str) -> str:
    """Without its options, and whose it is."""
    return subject.partition(",")[0].partition(" ")[0]


def measure(only: Sequence[str] = (), workers: int = 2) -> list[Line]:
    """The lines of all losses, or of those of these names."""
    lines: list[Line] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(job) for job in jobs(only)]
        for done, future in enumerate(running, 1):
            lines += future.result()
            print(f"\r{done} of {len(running)} measurements", end="", file=sys.stderr)
    print(file=sys.stderr)
    return lines


def complaints(lines: Iterable[Line], recorded: Mapping[Key, Line]) -> Iterator[str]:
    """What is over its bound, or worse than recorded."""
    for line in lines:
        before = recorded.get(line.key, line).ulp
        if not line.is_within_bounds:
            yield f"over its bound: {line}"
        elif round(line.ulp, 3) > round(before, 3):
            yield f"worse than the {before} recorded: {line}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; refuse to record what got worse or is over its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="of a loss")
    parser.add_argument("--accept", action="store_true", help="record larger errors too")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "gaussian_focal_loss: no value")  # of one target each
    for name in options.only:
        if not any(True for _ in jobs([name])):
            parser.error(f"expected the name of a loss that is measured, got {name!r}")
    recorded = record.read()
    lines = measure(options.only)
    refusals = list(complaints(lines, recorded))
    print(*refusals, sep="\n")
    if refusals and not options.accept:
        return 1
    kept = recorded if options.only else {}
    whole = {**kept, **{line.key: line for line in lines}}
    print(f"wrote {record.write(whole.values())}: {len(lines)} lines measured of {len(whole)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
