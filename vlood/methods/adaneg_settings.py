"""AdaNeg's settings."""

from __future__ import annotations

from dataclasses import dataclass

from vlood.errors import UsageError
from vlood.methods.contract import (
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)

COMBINE = ("combine", "adaonly", "vanillaonly", "multiply")


@dataclass(frozen=True)
class AdaNegSettings:
    """Settings of AdaNeg."""

    groups: int = setting(
        5,
        help="groups the negatives are split into, the remainder dropped; 0: groups of about 100",
        unit="groups",
        source="the authors' scripts, group_num 5",
    )
    threshold: float = setting(
        0.5,
        help="the NegLabel score between in and out of distribution",
        unit="score",
        source="the authors' scripts, thres 0.5",
    )
    gap: float = setting(
        0.5,
        help="share of the way from the threshold to 1 (and to 0) where confidence begins",
        unit="1",
        source="the authors' scripts, gap 0.5: above 0.75 and below 0.25",
    )
    adaptive_gap: bool = setting(
        False,
        help="widen the gap of the rarer side; the two scores then weigh the same",
        unit="-",
        source="the authors' second class; their ImageNet script does not use it",
    )
    memory_length: int = setting(
        10,
        help="image slots of a class or negative; one always stays empty",
        unit="images",
        source="the authors' scripts, memleng 10: 9 images are held",
    )
    sample_adaptive: bool = setting(
        True,
        help="weight the memory by its likeness to each image, instead of a plain mean",
        unit="-",
        source="the paper; the authors' script runs both",
    )
    beta: int = setting(
        5,
        help="sharpness of the sample-adaptive weights exp(-beta (1 - cos))",
        unit="1/cosine",
        source="the authors' scripts say 5.5 and their code cuts it to the whole number 5",
    )
    lambda_text: float = setting(
        0.1,
        help="weight of the score with the text features alone",
        unit="1",
        source="the authors' scripts, lambdaval 0.1; their adaptive gap ignores it (1)",
    )
    combine: str = setting(
        "combine",
        help="how the two scores are joined: combine (sum), adaonly, vanillaonly or multiply",
        unit="-",
        source="the authors' scripts, in_score combine",
    )

    def __post_init__(self) -> None:
        check_whole("adaneg", "groups", self.groups, 0)
        check_positive("adaneg", "lambda_text", self.lambda_text, or_zero=True)
        check_positive("adaneg", "beta", self.beta, or_zero=True)
        check_share("adaneg", "threshold", self.threshold)
        check_share("adaneg", "gap", self.gap)
        if self.memory_length < 2:
            raise UsageError(
                f"adaneg: memory_length is {self.memory_length}; expected 2 or more, because one "
                "slot always stays empty"
            )
        check_choice("adaneg", "combine", self.combine, COMBINE)
