"""All trainings of a study, on this machine: what is done isn't done again.

    trainings.jsonl  a line a training; whole whenever this is killed, in order at the end
    sessions.jsonl   who worked on it: versions, machine, git state, seconds of each data set
    cache            prepared data, and the predictions on the test: large, and made again if lost
    lock             held by the process that works on the folder

A line depends on its training, the data and the software alone; it has no time in it.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from filelock import FileLock, Timeout

import parfocal
from parfocal.experiments.data import Sources
from parfocal.experiments.errors import (
    BusySweepError,
    ChangedDataError,
    DamagedRecordError,
    DeadWorkerError,
)
from parfocal.experiments.run.engines import Engine
from parfocal.experiments.run.record import append_line, read_lines, replacing
from parfocal.experiments.run.session import Session, environment, now
from parfocal.experiments.run.sweep import ATTEMPTS
from parfocal.experiments.study.problems import load_problem, prepare, save_problem
from parfocal.experiments.study.spec import Dataset, Study, Training, data_digest
from parfocal.experiments.study.training import train_and_measure

TRAININGS = "trainings.jsonl"

# What the numbers of a training depend on, beside its spec.
_SOFTWARE = ("torch", "torchvision", "numpy", "scipy")

Line = dict[str, Any]


class Folder(NamedTuple):
    """Where the files of a study are."""

    path: Path

    @property
    def trainings(self) -> Path:
        """The record."""
        return self.path / TRAININGS

    @property
    def sessions(self) -> Path:
        """Who worked on it."""
        return self.path / "sessions.jsonl"

    def data(self, dataset: Dataset) -> Path:
        """The prepared data of a data set."""
        return self.path / "cache" / f"{data_digest(dataset)}.pt"

    def predictions(self, training: Training) -> Path:
        """What a training answered on the test."""
        return self.path / "cache" / f"{training.digest}.npz"


class _TrainingLine(msgspec.Struct):
    """What a line of a training has at least."""

    training: str
    dataset: str
    objective: str
    rate: float
    seed: int
    data: str
    steps: int
    skipped_steps: int
    largest_logit: float
    dead_share: float
    temperature: Annotated[float, msgspec.Meta(gt=0)]
    validation_average_precision: float


class Progress(NamedTuple):
    """A training that ended: its line, how long it took, and how many of the study are done."""

    line: Line
    seconds: float
    done: int
    size: int


def read_trainings(folder: Folder) -> dict[str, Line]:
    """The lines of a study's trainings, by digest; of two of one training the later.

    Raises:
        DamagedRecordError: a line isn't what was written there; with its number.
    """
    lines = read_lines(folder.trainings)
    for number, line in enumerate(lines, start=1):
        try:
            msgspec.convert(line, _TrainingLine)
        except msgspec.ValidationError as error:
            problem = f"{folder.trainings}, line {number} is damaged ({error})"
            raise DamagedRecordError(problem) from error
    return {line["training"]: line for line in lines}


def chosen_rate(study: Study, dataset: str, objective: str, lines: dict[str, Line]) -> float | None:
    """The rate with the largest average precision on the validation split, the smallest of equals.

    None while the search isn't done.
    """
    search = study.search(dataset, objective)
    if any(training.digest not in lines for training in search):
        return None
    best = max(search, key=lambda training: lines[training.digest]["validation_average_precision"])
    return best.rate


def run_study(
    study: Study,
    directory: Path,
    sources: Sources,
    engine: Engine,
    session: Session,
    note: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Conduct all trainings that aren't done, a data set after the other.

    Raises:
        ExperimentError: data that are missing or have changed, or another study in the folder.
    """
    folder = Folder(directory.resolve())
    (folder.path / "cache").mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        mend(folder.trainings)
        checksums = {
            name: _prepared(study.datasets[name], folder, sources) for name in study.datasets
        }
        begun = {"began": now(), "engine": session.engine, "git": session.git}
        append_line(folder.sessions, "begin", {**begun, "study": study.digest, **environment()})
        conductor = _Conductor(study, folder, engine, checksums, note)
        try:
            for name in study.datasets:
                conductor.run(name)
            _sort(study, folder)
        finally:
            append_line(folder.sessions, "end", {"ended": now(), "seconds": conductor.seconds})


class _Conductor:
    """What is done, what is under way, and what comes next."""

    def __init__(
        self,
        study: Study,
        folder: Folder,
        engine: Engine,
        checksums: dict[str, str],
        note: Callable[[Progress], None],
    ) -> None:
        self._study = study
        self._folder = folder
        self._engine = engine
        self._checksums = checksums
        self._note = note
        self._lines = read_trainings(folder)
        self._waiting: dict[Future[tuple[Line, float]], tuple[str, str, Training, int]] = {}
        self._done = 0
        self.seconds: dict[str, float] = {}
        for line in self._lines.values():
            expected = checksums.get(line["dataset"])
            if expected not in (None, line["data"]):
                raise ChangedDataError(
                    f"{folder.trainings} has training runs on {line['dataset']} with different "
                    f"data; name another folder with --out, or remove these lines"
                )

    def run(self, dataset: str) -> None:
        """All trainings on a data set; those of an objective follow its search."""
        for objective in self._study.objectives:
            for training in self._study.search(dataset, objective):
                self._submit(dataset, objective, training)
        for objective in self._study.objectives:
            self._follow(dataset, objective)
        try:
            while self._waiting:
                done, _ = wait(self._waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    self._finish(future)
        except BaseException:
            for future in self._waiting:
                future.cancel()
            raise

    def _follow(self, dataset: str, objective: str) -> None:
        rate = chosen_rate(self._study, dataset, objective, self._lines)
        if rate is not None:
            for training in self._study.trainings(dataset, objective, rate):
                self._submit(dataset, objective, training)

    def _submit(self, dataset: str, objective: str, training: Training, attempt: int = 1) -> None:
        predictions = self._predictions(training)
        if training.digest in self._lines and (predictions is None or predictions.exists()):
            self._done += 1
            return
        data = self._folder.data(training.dataset)
        future = self._engine.submit(_work, training, data, predictions)
        self._waiting[future] = dataset, objective, training, attempt

    def _predictions(self, training: Training) -> Path | None:
        if training.seed == self._study.search_seed:
            return None
        return self._folder.predictions(training)

    def _finish(self, future: Future[tuple[Line, float]]) -> None:
        dataset, objective, training, attempt = self._waiting.pop(future)
        if isinstance(future.exception(), DeadWorkerError) and attempt < ATTEMPTS:
            self._submit(dataset, objective, training, attempt + 1)
            return
        found, seconds = future.result()
        line = {
            "training": training.digest,
            "dataset": dataset,
            "objective": objective,
            "rate": training.rate,
            "seed": training.seed,
            "data": self._checksums[dataset],
            "software": software(),
            **found,
        }
        append_line(self._folder.trainings, "training", line)
        self._lines[training.digest] = line
        self._done += 1
        self.seconds[dataset] = round(self.seconds.get(dataset, 0.0) + seconds, 3)
        self._note(Progress(line, seconds, self._done, self._study.size))
        if training.seed == self._study.search_seed:
            self._follow(dataset, objective)


def software() -> dict[str, str]:
    """The versions of what computes."""
    return {"parfocal": parfocal.__version__, **{name: version(name) for name in _SOFTWARE}}


def mend(path: Path) -> None:
    """Cut off the line that was being written when a process was killed."""
    contents = path.read_bytes() if path.exists() else b""
    whole = contents[: contents.rfind(b"\n") + 1]
    if whole != contents:
        with replacing(path) as temporary:
            temporary.write_bytes(whole)


def _work(training: Training, data: Path, predictions: Path | None) -> tuple[Line, float]:
    """A training in a process of an engine's, and the processor's seconds that it took."""
    began = time.process_time()
    found = train_and_measure(training, data, predictions)
    return found, time.process_time() - began


def _prepared(dataset: Dataset, folder: Folder, sources: Sources) -> str:
    """The checksum of the prepared data, which are prepared if they aren't there."""
    path = folder.data(dataset)
    if not path.exists():
        save_problem(prepare(dataset, sources), path)
    return load_problem(path).checksum()


def _sort(study: Study, folder: Folder) -> None:
    """Bring the lines into the study's order, each once; those that aren't its own come last."""
    raw = folder.trainings.read_bytes().splitlines(keepends=True)
    lines = read_lines(folder.trainings)
    texts = {line["training"]: text for line, text in zip(lines, raw, strict=True)}
    found = {line["training"]: line for line in lines}
    order: list[str] = []
    for dataset in study.datasets:
        for objective in study.objectives:
            rate = chosen_rate(study, dataset, objective, found)
            assert rate is not None
            trainings = study.search(dataset, objective)
            trainings += study.trainings(dataset, objective, rate)
            order += [training.digest for training in trainings]
    order = list(dict.fromkeys([*order, *texts]))
    with replacing(folder.trainings) as temporary:
        temporary.write_bytes(b"".join(texts[digest] for digest in order))


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    lock = FileLock(folder.path / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise BusySweepError(
            f"another study is working on {folder.path}; wait for it, or use another --out folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
