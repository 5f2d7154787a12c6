"""What a CLIPN detector's "no" features say of each class: how far they stand from the "yes" ones.

Class texts stand in for images here, so no image is needed: an image just like the text of class k
should get "yes" for k and "no" for every other class. Where it does not, the two are confused.
Where "yes" and "no" are nearly the same, no image can be told: q is a half for all, and ATD's
threshold-free decision calls everything OOD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.methods.clipn import scale_of, yes_probability
from vlood.methods.contract import Detector

COLLAPSED = 0.1
"""Distance of unit vectors, in [0, 2], below which a "no" is taken for its "yes"."""
ALIKE = 0.1
"""Mean distance between the "no" of different classes below which they say the same."""
_SHOWN = 3


@dataclass(frozen=True)
class NoOfClass:
    """What the "no" of one class says.

    Attributes:
        name: of the class.
        distance: between its "yes" and its "no", in [0, 2]; 0 where they are the same.
        cosine: of the two.
        yes: q of an image just like its own text, in [0, 1]; should be near 1.
        confused: classes whose "no" does not object to such an image, q of each, largest first.
    """

    name: str
    distance: float
    cosine: float
    yes: float
    confused: tuple[tuple[str, float], ...]

    @property
    def collapsed(self) -> bool:
        """Say whether the pair is one."""
        return self.distance < COLLAPSED

    def record(self) -> dict[str, Any]:
        """Return it JSON-able."""
        return {
            "class": self.name,
            "distance": round(self.distance, 6),
            "cosine": round(self.cosine, 6),
            "yes": round(self.yes, 6),
            "confused": {name: round(value, 6) for name, value in self.confused},
            "collapsed": self.collapsed,
        }


def explain_no(detector: Detector) -> list[NoOfClass]:
    """Return what the "no" of each class says, in their order.

    Raises:
        UsageError: the detector has no "no" features.
    """
    yes, no = _features(detector)
    q = _yes_of_texts(detector, yes, no)
    names = detector.class_names
    found = []
    for row, name in enumerate(names):
        others = [other for other in np.argsort(-q[row], kind="stable").tolist() if other != row]
        confused = tuple((names[other], float(q[row, other])) for other in others)
        cosine = float(yes[row] @ no[row])
        found.append(
            NoOfClass(
                name,
                float(np.linalg.norm(yes[row] - no[row])),
                cosine,
                float(q[row, row]),
                tuple(pair for pair in confused if pair[1] >= 0.5),
            )
        )
    return found


def warnings_of(detector: Detector) -> list[str]:
    """Return what is wrong with the "no" features, a sentence each; none where nothing is.

    Raises:
        UsageError: the detector has no "no" features.
    """
    _, no = _features(detector)
    rows = explain_no(detector)
    said = []
    collapsed = [row.name for row in rows if row.collapsed]
    if collapsed:
        shown = ", ".join(collapsed[:_SHOWN]) + (", ..." if len(collapsed) > _SHOWN else "")
        said.append(
            f'the "no" of {len(collapsed)} of {len(rows)} classes is their "yes" ({shown}): they '
            'cannot be told apart, and the score says nothing of "no"; train longer, or on more '
            "captions"
        )
    silent = [row.name for row in rows if row.yes < 0.5 and not row.collapsed]
    if silent:
        shown = ", ".join(silent[:_SHOWN]) + (", ..." if len(silent) > _SHOWN else "")
        said.append(
            f'the "no" of {len(silent)} of {len(rows)} classes objects to the class itself '
            f"({shown}): its images will be called OOD"
        )
    if len(no) > 1 and _mean_distance(no) < ALIKE:
        said.append(
            'the "no" of all classes is nearly the same, so it says nothing of any one of them; '
            "train on captions of more different things"
        )
    return said


def _features(detector: Detector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if "no_features" not in detector.tensors:
        raise UsageError(
            f'--no: a {detector.method} detector has no "no" text features; it goes with clipn'
        )
    yes, no = (
        np.asarray(detector.tensors[name], np.float64) for name in ("class_features", "no_features")
    )
    return (
        yes / np.linalg.norm(yes, axis=1, keepdims=True),
        no / np.linalg.norm(no, axis=1, keepdims=True),
    )


def _yes_of_texts(
    detector: Detector, yes: NDArray[np.float64], no: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return q [K, K]: of an image like the text of a row, for the class of a column."""
    scale = scale_of(detector)
    return yes_probability(scale * (yes @ yes.T), scale * (yes @ no.T))


def _mean_distance(rows: NDArray[np.float64]) -> float:
    """Return the mean distance between different unit rows."""
    apart = np.sqrt(np.clip(2 - 2 * rows @ rows.T, 0, None))
    return float(apart.sum() / (len(rows) * (len(rows) - 1)))
