"""How much of what the auditor says of the zoo is true, and what it doesn't find.

`python tests/audit/zoo_report.py` prints the number of statements that were checked, the rate of
false ones, each of these, and the defects that were missed. Exit status 1 if
any statement is false.
"""

import sys
from collections import Counter
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from audit.zoo import ENTRIES
from audit.zoo_claims import Claim
from audit.zoo_family import EDITS, STYLES, untold
from audit.zoo_run import seen


def main() -> int:
    """Audits all, and prints."""
    torch.set_num_threads(1)
    claims: list[Claim] = []
    missed: list[str] = []
    for name in ENTRIES:
        try:
            found = seen(name)
        except Exception as error:
            missed.append(f"{name}: {type(error).__name__}: {str(error)[:100]}")
            continue
        claims += found.claims
        missed += [f"{name}: {words}" for words in found.missed]
    edits = [*product(STYLES, ("none", *EDITS))]
    for style, edit in edits:
        missed += [f"{style}, {edit}: {words[:100]}" for words in untold(style, edit)]
    false = [claim for claim in claims if not claim.is_true]
    by_kind = Counter(claim.kind for claim in claims)
    print(f"{len(ENTRIES)} losses and {len(edits)} of the family; {len(claims)} statements checked")
    print(", ".join(f"{kind} {count}" for kind, count in by_kind.most_common()))
    print(f"false: {len(false)}, {len(false) / len(claims):.2%}")
    for claim in false:
        print(f"  {claim.entry}: {claim.kind}: {claim.words} | {claim.why}")
    print(f"missed: {len(missed)}")
    for words in missed:
        print(f"  {words}")
    return int(bool(false))


if __name__ == "__main__":
    sys.exit(main())
