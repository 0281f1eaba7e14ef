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


FALSE = (
    Known(
        reason="a logit is wrong among others, and shown with a result of it alone, which is right",
        example="of_log_probabilities",
        kind="cliff",
        words="^off",
        why="nothing is off there",
    ),
    Known(
        reason="16 bits are rounded otherwise in a vector unit than alone",
        example="in_bfloat16",
        kind="finding",
        words="inaccurate, gradient, float32",
        why="it gives",
        entries=("in_bfloat16",),
    ),
)

# Entries that can't be audited at all.
REFUSED: dict[str, str] = {}

# Of an entry, what isn't found.
MISSED = {"in_bfloat16": "soft targets aren't looked at where two digits are known"}

# Of the family, edits that aren't found.
UNTOLD: dict[tuple[str, str], str] = {}

# Of four million float32, in which errors are scattered.
SMALLEST = "65,536 numbers are looked at for a nearer one, and not all"
