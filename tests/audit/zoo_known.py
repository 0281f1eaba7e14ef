"""What the auditor says that isn't true, and what it doesn't find: each with its reason.

`test_zoo.py` holds every other statement to the truth, and fails where one of these is mended.
"""

import re
from dataclasses import dataclass

from audit.zoo_claims import Claim


@dataclass(frozen=True, kw_only=True)
class Known:
    """False statements of one kind.

    reason: in a sentence. example: an entry that has it. kind, words, why: what it looks like.
    entries: the only ones that may have it; all by default.
    """

    reason: str
    example: str
    kind: str = ""
    words: str = ""
    why: str = ""
    entries: tuple[str, ...] = ()

    def matches(self, claim: Claim) -> bool:
        """Whether a false claim is of this kind."""
        return (
            not claim.is_true
            and re.fullmatch(self.kind, claim.kind) is not None
            and re.search(self.words, claim.words) is not None
            and re.search(self.why, claim.why) is not None
            and (not self.entries or claim.entry in self.entries)
        )


_ONE = r"where all is well, it rounds to 1 too"

FALSE = (
    Known(
        reason="the logarithm of 0, a power that underflows and an overflow at the end of the "
        "numbers are laid to 1 - p_t that rounds to 1, as it did long before",
        example="by_subtraction",
        kind="cause",
        words=r": 1 - p_t rounds to 1",
        why=_ONE,
    ),
    Known(
        reason="a power that underflows is laid to p_t that rounds to 1, as it did long before",
        example="by_sigmoids",
        kind="cause",
        words=r": p_t rounds to 1",
        why=_ONE,
    ),
    Known(
        reason="a clamp, or a gradient that underflows, is laid to p_t that rounds to 1",
        example="clamp_of_logits",
        kind="cause",
        words=r"normal number: p_t rounds to 1",
        why=_ONE,
    ),
    Known(
        reason="an overlap that rounds to 1 is laid to p_t",
        example="dice",
        kind="cause",
        words="p_t rounds to 1",
        why="rounds to less than 1",
        entries=("dice",),
    ),
    Known(
        reason="an error of the size of a subtraction from 1 is laid to one, in a loss without",
        example="sign",
        kind="cause",
        words="formed by subtraction",
        why="has no subtraction",
    ),
    Known(
        reason="of an exponent gamma / 2 the gradient at gamma 1 isn't finite either",
        example="half_exponent",
        kind="cause",
        words="at a gamma of 1 or more",
        why="at gamma 1 it isn't finite there",
        entries=("half_exponent",),
    ),
    Known(
        reason="of scattered errors the smallest logit is looked for on one side of 0, and no "
        "nearer than half of the last that was found",
        example="by_subtraction",
        kind="cliff",
        why="(off|dead|nonfinite) at .* already",
    ),
    Known(
        reason="a logit is wrong among others, and shown with a result of it alone, which is right",
        example="base_1e6",
        kind="cliff",
        words="^off",
        why="nothing is off there",
    ),
    Known(
        reason="the weight of the first term of smoothed labels is told as a factor of the loss",
        example="smoothed_labels",
        kind="meaning",
        words="a factor 0.95",
        entries=("smoothed_labels",),
    ),
    Known(
        reason="integer targets can't be soft, and are said to be another function",
        example="integers",
        kind="meaning",
        words="soft targets",
        entries=("integers", "integers_by_subtraction"),
    ),
    Known(
        reason="a focal loss that is computed in bfloat16 is called an unknown function, and its "
        "agreement with itself accuracy",
        example="in_bfloat16",
        entries=("in_bfloat16",),
        kind="meaning|finding|certificate",
    ),
    Known(
        reason="an unknown function that agrees with its own float64 is certified as accurate",
        example="hinge",
        kind="certificate",
        why="nothing is known of what it should be",
    ),
    Known(
        reason="the varifocal loss is named by its hard targets alone",
        example="varifocal",
        kind="finding",
        words="another definition",
        entries=("varifocal",),
    ),
)

# Entries that can't be audited at all.
REFUSED = {
    "in_a_tuple": "a loss in a tuple isn't taken",
    "in_a_dict": "a loss in a dict isn't taken",
    "three_classes": "no other number of classes than 2 is tried",
    "of_jax": "JAX is tried where the module of the loss has imported it, and not in a call",
}

# Of an entry, what isn't found.
MISSED = {
    "size_average": "what the mean divides by is looked for where `reduction` is a keyword",
    "log_1e3": "a gradient that is dead isn't told where the loss has the wrong sign elsewhere",
    "log_1e6": "a gradient that is dead isn't told where the loss has the wrong sign elsewhere",
    "both_1e5": "a gradient that is dead isn't told where the loss has the wrong sign elsewhere",
    "in_bfloat16": "a focal loss that is computed in bfloat16 is no known function",
    "varifocal": "the varifocal loss is named by its hard targets alone",
    "positive_gamma": "a refusal is told of the four gammas that the convention is found at",
}

# Of the family, edits that aren't found.
UNTOLD = {
    ("mean first", style): "alpha outside of the modulator of a mean makes it no known function"
    for style in ("function", "column", "map", "classes")
}

# Of four million float32, in which errors are scattered.
SMALLEST = "32,768 numbers are looked at for a nearer one, and not all"
