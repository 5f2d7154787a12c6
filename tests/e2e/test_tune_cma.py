"""CMA tuned on images, by the installed command."""

from __future__ import annotations

from pathlib import Path

from .conftest import Many, Result
from .test_tune_images import draw


def test_from_images_to_scores_of_the_tuned_towers(many: Many, tiny: str, tmp_path: Path) -> None:
    draw(tmp_path)
    model = ("--model", tiny, "--cache", "cache")
    named = ("--classes", "red,green thing,blue", "--train", "train")
    words = ("--negatives", "words.txt")
    tune = ("tune", "cma", *model, *named, "--shots", "4", "--set", "epochs=2", *words)
    (tmp_path / "words.txt").write_text("harp\nstone\ntench\n")
    cached = ("--cache", "cache")
    dry, made, calibrated, shown, scores, plain, other, *refused = many(
        (*tune, "--dry-run", "-o", "lora"),
        (*tune, "--tune", "lora", "--lambda", "0.01", "-o", "lora"),
        ("calibrate", "lora", "--id", "train", *cached),
        ("show", "lora"),
        ("score", "train", "--detector", "lora", *cached),
        ("score", "train", "--model", "tuned:lora", "--classes", "red,green thing,blue", *cached),
        ("apply", "lora", "--classes", "red,blue", *words, "-o", "other", *cached),
        ("tune", "cma", *model, "--classes", "red", "--train", "train", "-o", "x"),
        ("tune", "cma", "--model", "tuned:lora", *named, *words, "-o", "x"),
        ("score", "train", "--detector", "lora", "--classes", "red,blue,yellow"),
        ("eval", "--method", "cma", *model, *named, "--id", "train", "--ood", "strange", "-o", "r"),
        cwd=tmp_path,
    )
    for one in (dry, made, calibrated, shown, scores, plain, other):
        assert one.code == 0, one.err
    assert dry.records[0]["steps"] > 0
    facts = made.records[0]
    assert (facts["method"], facts["learned"], facts["negatives"]) == ("neglabel", "weights", 3)
    assert shown.records[0]["model"] == tiny
    assert {path.name for path in (tmp_path / "lora" / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "base.json",
    }  # fmt: skip
    size = (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").stat().st_size
    whole = (Path(tiny.removeprefix("local-dir:")) / "open_clip_model.safetensors").stat().st_size
    assert size <= 0.05 * whole

    def numbers(result: Result) -> list[float]:
        return [record["score"] for record in result.records]

    assert len(numbers(scores)) == len(numbers(plain)) == 12
    assert scores.records[0]["p_value"] is not None
    assert other.records[0]["classes"] == 2
    said = (
        "one class alone",
        "is a tuned model already",
        "was made for other classes",
        "tunes the model itself",
    )
    for one, sentence in zip(refused, said, strict=True):
        assert sentence in one.sentence(2)
    assert not (tmp_path / "x").exists()
