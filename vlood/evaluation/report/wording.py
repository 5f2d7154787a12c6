"""How figures and names are written in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlood.evaluation.report_files import shortened

LONGEST_NAME = 60
LONGEST_PATH = 240


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction in percent without the sign, a dash when it is not known."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"


def score_text(score: float) -> str:
    """Return a score with four significant digits."""
    return f"{score:.4g}".replace("-", "−")


def p_text(p: float) -> str:
    """Return a p-value as a comparison: "p = 0.031" or "p < 0.0001"."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def count_text(n: int, one: str, many: str | None = None) -> str:
    """Return a number with the word it counts: "1 image", "2,000 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def hundred_text(share: float) -> str:
    """Return a share as a count of each hundred; small shares keep a digit."""
    hundred = 100 * share
    # Rounding must not call a detector perfect that is not.
    if 0 < hundred < 9.95 or 99 < hundred < 100:
        return f"{hundred:.1f}"
    return f"{hundred:.0f}"


def shown_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name on one line that can be encoded, its middle left out when it is too long."""
    return shortened(name, longest)


def listed(names: Sequence[str], joint: str = "and") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {joint} {names[-1]}"


def finite(value: float | None) -> bool:
    """Whether there is a value and it is a finite number."""
    return value is not None and math.isfinite(value)
