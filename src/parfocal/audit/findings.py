"""What can be wrong with a loss, by kind, and how it is reported."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "not finite",
    "wrong sign",
    "another definition",
    "gamma ignored",
    "no function",
    "reduced too early",
    "dead gradient",
    "biased",
    "inaccurate",
    "masked leak",
    "vanishing constant",
    "mode mismatch",
    "fails",
]
# What harms a training, a numericist's remark, and what is a fact alone.
Severity = Literal["error", "warning", "note"]

SEVERITIES: dict[Kind, Severity] = {
    "not finite": "error",
    "wrong sign": "error",
    "another definition": "note",
    "gamma ignored": "error",
    "no function": "error",
    "reduced too early": "error",
    "dead gradient": "error",
    "biased": "error",
    "inaccurate": "warning",
    "masked leak": "error",
    "vanishing constant": "error",
    "mode mismatch": "warning",
    "fails": "error",
}

# The cause of a finding on a function that isn't known.
UNKNOWN_FUNCTION = "an unknown function"
UNKNOWN = f"it computes {UNKNOWN_FUNCTION}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    quantity: value, gradient or curvature.
    dtype, target, mode: where; the gammas at which it was seen are `gammas`.
    logit: the worst, or the first that isn't finite; `before` is its neighbour towards 0 at which
        all is well, if that was searched for.
    share: of the logits that were looked at.
    ulp: the worst error, infinite where it isn't finite.
    certified: whether all logits of the dtype were looked at.
    cause: one sentence.
    reproduce: Python that shows it by itself.
    """

    kind: Kind
    severity: Severity
    quantity: str
    dtype: str
    target: float
    mode: str
    gammas: tuple[float, ...]
    logit: float | None
    before: float | None
    computed: float | None
    truth: float | None
    share: float
    ulp: float
    certified: bool
    cause: str
    reproduce: str

    @property
    def key(self) -> str:
        """What names it in a baseline: where and what, without the numbers."""
        gammas = " ".join(f"{gamma:g}" for gamma in self.gammas)
        return " | ".join(
            (self.kind, self.quantity, self.dtype, f"y={self.target:g}", self.mode, gammas)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"gammas": list(self.gammas)}
