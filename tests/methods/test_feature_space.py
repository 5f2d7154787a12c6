"""Detectors of feature space: one row a method for its life, and plain references for its score."""

from __future__ import annotations

from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import gmm, kl_matching, registry
from vlood.methods.ash import shaped
from vlood.methods.contract import Detector
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

from .feature_world import (
    CLASSES,
    EACH,
    KNOWN,
    KNOWN_LABELS,
    OTHERS,
    STRANGE,
    TRAINING,
    Array,
    D,
    K,
    auroc,
    fit,
)

GAUSSIAN = ("mahalanobis", "relative-mahalanobis")
OF_A_PROBE = ("gen", "kl-matching", "vim", "residual", "react", "ash")
TRAINED = ("abet", "palm", "tagood", "mixoe")
METHODS = ("knn", *GAUSSIAN, "gmm", *OF_A_PROBE, "tip-adapter", *TRAINED, "cooked")
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outliers") / "others.npy"
    np.save(path, OTHERS)
    return path


@pytest.fixture(scope="module")
def fitted(outliers: Path) -> dict[str, Detector]:
    return {
        name: fit(name, **({"outliers": str(outliers)} if name == "mixoe" else {}))
        for name in METHODS
    }


def score(detector: Detector, images: ImageFeatures = KNOWN) -> Array:
    return registry.score(detector, images).score


@every_method
def test_known_images_are_told_from_strange_ones(method: str, fitted: dict[str, Detector]) -> None:
    one = fitted[method]
    scores = registry.score(one, KNOWN)
    assert (scores.label == KNOWN_LABELS).mean() > 0.9
    assert auroc(scores.score, score(one, STRANGE)) > 0.8


def test_knn_is_the_distance_to_the_kth_neighbour() -> None:
    from sklearn.neighbors import NearestNeighbors

    bank, rows = unit(TRAINING.raw), unit(KNOWN.raw)
    for k in (1, 5):
        plain = NearestNeighbors(n_neighbors=k).fit(bank).kneighbors(rows)[0][:, -1]
        np.testing.assert_allclose(score(fit("knn", k=k)), -plain, atol=1e-5)
    itself = score(fit("knn", k=1), ImageFeatures(TRAINING.raw))
    np.testing.assert_allclose(itself, 0, atol=1e-6)


def test_knn_keeps_a_share_of_each_class() -> None:
    one = fit("knn", share=0.25)
    same, other = fit("knn", share=0.25), fit("knn", share=0.25, seed=1)
    np.testing.assert_array_equal(same.tensors["bank"], one.tensors["bank"])
    assert not np.array_equal(other.tensors["bank"], one.tensors["bank"])
    np.testing.assert_array_equal(np.bincount(one.tensors["bank_labels"]), [3] * K)
    assert one.settings.k == 3
    assert fit("knn").settings.k == 10


def scatter(rows: Array, centres: Array) -> Array:
    apart = (rows - centres).astype(np.float64)
    return apart.T @ apart


def plain_distance(rows: Array, means: Array, covariance: Array) -> Array:
    inverse = np.linalg.inv(covariance)
    apart = rows[:, None] - means
    return np.einsum("nkd,de,nke->nk", apart, inverse, apart)


def mahalanobis_parts(shrinkage: float, images: ImageFeatures = KNOWN) -> tuple[Array, Array]:
    """The plain distances to classes [n, K] and to all images [n]."""
    bank = unit(TRAINING.raw).astype(np.float64)
    rows = unit(images.raw).astype(np.float64)
    means = np.stack([bank[TRAINING.labels == label].mean(0) for label in range(K)])

    def shrunk(covariance: Array) -> Array:
        mean = np.trace(covariance) / D
        return (1 - shrinkage) * covariance + shrinkage * mean * np.eye(D)

    within = shrunk(scatter(bank, means[TRAINING.labels]) / (len(bank) - K))
    total = shrunk(scatter(bank, bank.mean(0)) / (len(bank) - 1))
    to_all = plain_distance(rows, bank.mean(0)[None], total)[:, 0]
    return plain_distance(rows, means, within), to_all


@pytest.mark.parametrize("method", GAUSSIAN)
def test_labels_are_those_of_gaussian_classes_of_one_covariance(method: str) -> None:
    # From one class's mean to another's, where neither is sure.
    first, second = (TRAINING.raw[TRAINING.labels == label].mean(0) for label in (0, 1))
    steps = np.linspace(0, 1, 201, dtype=np.float32)[:, None]
    between = ImageFeatures(steps * first + (1 - steps) * second)
    halves = -mahalanobis_parts(0.3, between)[0] / 2
    weights = np.exp(halves - halves.max(axis=1, keepdims=True))
    said = registry.score(fit(method, shrinkage=0.3), between)
    np.testing.assert_array_equal(said.label, halves.argmax(axis=1))
    assert said.confidence.min() < 0.8
    np.testing.assert_allclose(said.confidence, 1 / weights.sum(axis=1), rtol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_mahalanobis_distances(shrinkage: float) -> None:
    how: dict[str, Any] = {"shrinkage": shrinkage} if shrinkage else {"covariance": "empirical"}
    to_class, to_all = mahalanobis_parts(shrinkage)
    plain = score(fit("mahalanobis", **how))
    np.testing.assert_allclose(plain, -to_class.min(axis=1), rtol=1e-5)
    relative = score(fit("relative-mahalanobis", **how))
    expected = -(to_class - to_all[:, None]).min(axis=1)
    np.testing.assert_allclose(relative, expected, rtol=1e-5, atol=1e-4)


def test_few_images_make_a_covariance_that_can_be_inverted() -> None:
    few = TRAINING.rows(np.arange(2 * K))
    for method in GAUSSIAN:
        one = fit(method, few)
        assert np.isfinite(one.tensors["whitening"]).all()
        assert auroc(score(one), score(one, STRANGE)) > 0.8
    empirical = fit("mahalanobis", few, covariance="empirical")
    assert np.isfinite(score(empirical)).all()


def head_of(one: Detector) -> tuple[Array, Array, Array]:
    """The rows of the known images and the logits of a plain linear layer on them and training."""
    weight = one.tensors["weight"].astype(np.float64)
    rows, bank = KNOWN.raw.astype(np.float64), TRAINING.raw.astype(np.float64)
    return rows, rows @ weight.T + one.tensors["bias"], bank @ weight.T + one.tensors["bias"]


def test_vim_and_residual(fitted: dict[str, Detector]) -> None:
    one = fit("vim", directions=6)
    rows, logits, bank_logits = head_of(one)
    weight, bias = one.tensors["weight"].astype(np.float64), one.tensors["bias"]
    origin = -np.linalg.pinv(weight, rcond=1e-5) @ bias
    bank = TRAINING.raw - origin
    _, _, directions = np.linalg.svd(bank)

    def left(shifted: Array) -> Array:
        inside = shifted @ directions[:6].T @ directions[:6]
        return np.linalg.norm(shifted - inside, axis=1)

    alpha = bank_logits.max(axis=1).mean() / left(bank).mean()
    expected = logsumexp(logits, axis=1) - alpha * left(rows - origin)
    np.testing.assert_allclose(score(one), expected, rtol=1e-5)
    residual = score(fit("residual", directions=6))
    np.testing.assert_allclose(residual, -left(rows - origin), rtol=1e-5)


def test_gen(fitted: dict[str, Detector]) -> None:
    p = np.clip(softmax(head_of(fitted["gen"])[1], axis=1), 1e-7, 1 - 1e-7)
    np.testing.assert_allclose(score(fitted["gen"]), -((p * (1 - p)) ** 0.1).sum(axis=1), rtol=1e-5)
    top = -np.sort(-p, axis=1)[:, :2]
    expected = -((top * (1 - top)) ** 0.5).sum(axis=1)
    np.testing.assert_allclose(score(fit("gen", gamma=0.5, largest=2)), expected, rtol=1e-5)


def test_kl_matching(fitted: dict[str, Detector]) -> None:
    p = softmax(head_of(fitted["kl-matching"])[1], axis=1)
    typical = fitted["kl-matching"].tensors["typical"].astype(np.float64)
    expected = (p[:, None] * (np.log(p)[:, None] - np.log(typical))).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(score(fitted["kl-matching"]), -expected, rtol=1e-5, atol=1e-9)
    answers = np.array([[0.9, 0.1, 0], [0.7, 0.3, 0], [0, 0.2, 0.8]])
    made = kl_matching.typical_answers(answers)
    np.testing.assert_allclose(made, [[0.8, 0.2, 0], [0, 0.2, 0.8]], rtol=1e-6)


def test_react_and_ash(fitted: dict[str, Detector]) -> None:
    one = fitted["react"]
    cut = np.quantile(np.abs(TRAINING.raw), 0.9)
    weight, bias = one.tensors["weight"].astype(np.float64), one.tensors["bias"]
    expected = logsumexp(np.clip(KNOWN.raw, -cut, cut) @ weight.T + bias, axis=1)
    np.testing.assert_allclose(score(one), expected, rtol=1e-5)
    row = np.array([[1.0, -4.0, 3.0, 0.5]])
    np.testing.assert_allclose(shaped(row, "p", 0.5), [[0, -4, 3, 0]])
    np.testing.assert_allclose(shaped(row, "b", 0.5), [[0, -4.25, 4.25, 0]])
    np.testing.assert_allclose(shaped(row, "s", 0.5), np.array([[0, -4, 3, 0]]) * np.exp(8.5 / 7))
    np.testing.assert_allclose(shaped(row, "p", 0.0), row)
    np.testing.assert_allclose(
        score(fit("ash", shape="p", pruned=0.0)), logsumexp(head_of(one)[1], axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("covariance", gmm.COVARIANCES)
def test_gmm_in_all_directions_is_the_mixture_of_scikit_learn(covariance: str) -> None:
    from sklearn.mixture import GaussianMixture

    bank = unit(TRAINING.raw).astype(np.float64)
    rows = unit(KNOWN.raw).astype(np.float64)
    mean = bank.mean(0)
    values, vectors = np.linalg.eigh(np.cov((bank - mean).T, bias=True))
    basis = vectors[:, ::-1]
    parts = []
    for label in range(K):
        mixture = GaussianMixture(
            2, covariance_type=covariance, reg_covar=0.1 * values.mean(), random_state=0
        ).fit((bank[TRAINING.labels == label] - mean) @ basis)
        parts.append(mixture.score_samples((rows - mean) @ basis) + np.log(1 / K))
    one = fit("gmm", components=2, directions=D, covariance=covariance)
    np.testing.assert_allclose(score(one), logsumexp(parts, axis=0), rtol=1e-5)


def test_gmm_has_one_variance_outside_its_directions() -> None:
    from scipy.stats import multivariate_normal

    one = fit("gmm", components=1, directions=3, covariance="full")
    own = one.tensors
    basis, noise = own["basis"].astype(np.float64), float(own["noise"][0])
    rows = unit(KNOWN.raw).astype(np.float64) - own["mean"]
    parts = []
    for label in range(K):
        factor = own["factors"][label].astype(np.float64)
        inside = np.linalg.inv(factor @ factor.T)
        whole = basis.T @ inside @ basis + noise * (np.eye(D) - basis.T @ basis)
        density = multivariate_normal(own["means"][label] @ basis, whole, allow_singular=True)
        parts.append(density.logpdf(rows) + np.log(1 / K))
    # The pieces are kept in single precision, and the noise divides what lies outside.
    np.testing.assert_allclose(score(one), logsumexp(parts, axis=0), rtol=1e-5, atol=1e-5)


def test_tip_adapter_adds_a_cache_to_zero_shot_logits() -> None:
    one = fit("tip-adapter", alpha=2.0, beta=3.0)
    rows, keys = unit(KNOWN.raw), unit(TRAINING.raw)
    near = np.exp(-3.0 * (1 - rows @ keys.T)) @ np.eye(K)[TRAINING.labels]
    expected = softmax(20.0 * rows @ CLASSES.features.T + 2.0 * near, axis=1).max(axis=1)
    np.testing.assert_allclose(score(one), expected, rtol=1e-5)
    without = fit("tip-adapter", alpha=0.0)
    plain = registry.get("msp").fit(CLASSES, registry.get("msp").settings(), 20.0)
    np.testing.assert_allclose(score(without), score(plain), rtol=1e-5)
    assert fit("tip-adapter", TRAINING.rows(np.arange(K))).settings.alpha == 1.0


def test_trained_heads_score_by_their_formulas(fitted: dict[str, Detector]) -> None:
    own, rows = fitted["abet"].tensors, unit(KNOWN.raw).astype(np.float64)
    temperature = 1 / (1 + np.exp(-(rows @ own["slope"] + own["offset"])))
    assert temperature.std() > 0
    expected = logsumexp(rows @ own["directions"].T / temperature[:, None], axis=1)
    np.testing.assert_allclose(score(fitted["abet"]), expected, rtol=1e-5)
    for method, array in (("tagood", "centres"), ("palm", "prototypes")):
        own = fitted[method].tensors
        made = (rows - own["mean"]) @ own["projection"].T
        cosines = made @ own[array].T / np.linalg.norm(made, axis=1, keepdims=True)
        if method == "palm":
            cosines = logsumexp(cosines.reshape(len(rows), K, -1) / 0.1, axis=2) - np.log(6)
        np.testing.assert_allclose(score(fitted[method]), cosines.max(axis=1), rtol=1e-5)


def test_mixing_outliers_in_makes_a_probe_unsure_of_them(outliers: Path) -> None:
    with_them = fit("mixoe", outliers=str(outliers), epochs=200)
    without = fit("mixoe", outliers=str(outliers), epochs=200, weight=0.0)
    assert score(with_them, STRANGE).mean() < score(without, STRANGE).mean() - 0.05


@pytest.mark.parametrize("method", METHODS)
def test_bad_images_are_refused_in_one_sentence(method: str, outliers: Path) -> None:
    given = {"outliers": str(outliers)} if method == "mixoe" else {}
    same = LabelledFeatures(np.ones((2 * K, D), np.float32), np.arange(2 * K) % K)
    lacking = TRAINING.rows(np.flatnonzero(TRAINING.labels > 0))
    if method != "tip-adapter":
        with pytest.raises(UsageError, match=f"{method}: all 8 training embeddings are the same"):
            fit(method, same, **given)
    with pytest.raises(UsageError, match=r"have no training image \(red\)"):
        fit(method, lacking, **given)


def test_one_image_a_class() -> None:
    few = TRAINING.rows(np.arange(K))
    for method in GAUSSIAN:
        with pytest.raises(UsageError, match=f"{method}: has one image a class.*--method knn"):
            fit(method, few)
    copies = LabelledFeatures(np.repeat(few.raw, 2, axis=0), np.repeat(few.labels, 2))
    with pytest.raises(UsageError, match="images of each class all have the same embedding"):
        fit("mahalanobis", copies)
    for method in ("knn", "gmm", *OF_A_PROBE, "tip-adapter", "abet", "palm", "tagood", "cooked"):
        assert np.isfinite(score(fit(method, few))).all(), method


def test_what_was_trained_on_raw_embeddings_refuses_normalised_ones() -> None:
    normalised = ImageFeatures(KNOWN.unit)
    for method in ("gen", "vim", "cooked"):
        with pytest.raises(UsageError, match=f"{method}: was trained on embeddings as the tower"):
            registry.score(fit(method), normalised)
    raw = fit("mahalanobis", embeddings="raw")
    with pytest.raises(UsageError, match="normalised to length 1"):
        registry.score(raw, normalised)
    one = fit("mahalanobis")
    np.testing.assert_allclose(score(one), score(one, normalised), rtol=1e-4)
    learned = fit("gen", replace(TRAINING, raw=unit(TRAINING.raw)))
    assert learned.settings.embeddings == "unit"
    np.testing.assert_allclose(score(learned), score(learned, normalised), rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("knn", {"k": 100}, "k is 100 and there are 48 training images"),
        ("knn", {"share": 0.0}, "share is 0"),
        ("vim", {"directions": D}, f"directions is {D} and embeddings are {D} wide"),
        ("gmm", {"directions": D + 1}, "use at most that"),
        ("gmm", {"components": EACH + 1}, f"components is {EACH + 1} and some class has {EACH}"),
        ("gen", {"gamma": 1.5}, "gamma is 1.5; expected a number between 0 and 1"),
        ("ash", {"pruned": 1.0}, "pruned is 1.0"),
        ("mixoe", {}, "needs images of other things"),
        ("mixoe", {"outliers": "/nowhere.npy"}, "does not exist"),
        ("mahalanobis", {"covariance": "round"}, "expected shrunk or empirical"),
    ],
)
def test_bad_settings_are_refused(method: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(method, **values)


def test_one_class_is_refused_by_what_tells_classes_apart() -> None:
    one = ClassFeatures(("red",), np.zeros((1, 0), np.float32))
    images = LabelledFeatures(TRAINING.raw[:5], np.zeros(5, np.int64))
    for name in (*OF_A_PROBE, "abet", "palm", "tagood"):
        method = registry.get(name)
        with pytest.raises(UsageError, match=f"{name}: .* needs at least 2 of them"):
            method.fit(one, method.settings(), 1.0, images=images)
    for name in ("knn", "mahalanobis", "gmm"):
        method = registry.get(name)
        found = method.fit(one, method.settings(), 1.0, images=images)
        assert np.isfinite(score(found)).all()


@pytest.mark.parametrize(
    ("method", "array", "value", "said"),
    [
        ("knn", "list_ends", np.array([3]), "list_ends must rise"),
        ("knn", "bank_labels", np.full(K * EACH, K), "indices of the classes"),
        ("gmm", "noise", np.zeros(1, np.float32), "noise must be above 0"),
        ("gmm", "component_class", np.zeros(K, np.int64), "must name every class"),
        ("kl-matching", "typical", np.ones((K, K), np.float32), "rows of probabilities"),
        ("tagood", "centres", np.ones((K, D), np.float32), "rows of length 1"),
        ("palm", "prototypes", np.eye(D, dtype=np.float32)[:K], "must have 24 rows"),
        ("tip-adapter", "key_labels", np.full(K * EACH, -1), "indices of the classes"),
    ],
)
def test_damaged_arrays_are_refused(
    method: str, array: str, value: Array, said: str, fitted: dict[str, Detector], tmp_path: Path
) -> None:
    one = fitted[method]
    wrong = replace(one, tensors={**one.tensors, array: value})
    check = registry.get(method).check
    assert check is not None
    check(one)
    with pytest.raises(UsageError, match=said):
        check(wrong)


PYTORCH_OOD = pytest.mark.skipif(
    util.find_spec("pytorch_ood") is None, reason="pytorch-ood is not installed"
)


@PYTORCH_OOD
def test_agrees_with_pytorch_ood(fitted: dict[str, Detector]) -> None:
    import torch
    from pytorch_ood import detector as theirs

    bank, rows = torch.from_numpy(unit(TRAINING.raw)), torch.from_numpy(unit(KNOWN.raw))
    labels = torch.from_numpy(TRAINING.labels)
    knn = theirs.KNN(None, k=5).fit_features(bank, labels).predict_features(rows)
    np.testing.assert_allclose(score(fit("knn", k=5)), -knn.numpy(), atol=1e-5)

    one = fit("vim", directions=6)
    weight, bias = (torch.from_numpy(one.tensors[name]) for name in ("weight", "bias"))
    vim = theirs.ViM(None, 6, weight, bias)
    vim.fit_features(torch.from_numpy(TRAINING.raw), labels)
    found = vim.predict_features(torch.from_numpy(KNOWN.raw)).numpy()
    np.testing.assert_allclose(score(one), -found, rtol=1e-5, atol=1e-5)

    _, logits, _ = head_of(fitted["gen"])
    gen = theirs.GEN.score(torch.from_numpy(logits), gamma=0.1).numpy() * K
    np.testing.assert_allclose(score(fitted["gen"]), -gen, rtol=1e-5)


@PYTORCH_OOD
def test_distances_agree_with_pytorch_ood() -> None:
    """Theirs adds 1e-6 to the sums of squares, which is nothing beside those of raw embeddings."""
    import torch
    from pytorch_ood import detector as theirs

    bank, rows = (torch.from_numpy(each).double() for each in (TRAINING.raw, KNOWN.raw))
    labels, before = torch.from_numpy(TRAINING.labels), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the sums, which it would keep in single precision
    try:
        found = theirs.Mahalanobis(None).fit_features(bank, labels).predict_features(rows).numpy()
        rmd = theirs.RMD(None).fit_features(bank, labels)
        classes = np.stack([rmd._class_score(rows, label).numpy() for label in range(K)], axis=1)
        background = rmd._background_score(rows).numpy()
    finally:
        torch.set_default_dtype(before)
    how: dict[str, Any] = {"covariance": "empirical", "embeddings": "raw"}
    count = K * EACH
    # Its covariances are sums, not divided by the images.
    np.testing.assert_allclose(
        score(fit("mahalanobis", **how)), -2 * (count - K) * found, rtol=1e-5
    )
    relative = (count - K) * classes - (count - 1) * background[:, None]
    own = score(fit("relative-mahalanobis", **how))
    np.testing.assert_allclose(own, -relative.min(axis=1), rtol=1e-5, atol=1e-4)


@PYTORCH_OOD
def test_react_agrees_with_pytorch_ood_on_activations_of_one_side() -> None:
    import torch
    from pytorch_ood import detector as theirs

    positive = replace(TRAINING, raw=np.abs(TRAINING.raw))
    one, rows = fit("react", positive), np.abs(KNOWN.raw)
    weight, bias = (torch.from_numpy(one.tensors[name]).double() for name in ("weight", "bias"))
    react = theirs.ReAct(
        lambda x: x, lambda x: x @ weight.T + bias, threshold=float(one.tensors["cut"][0])
    )
    found = react.predict(torch.from_numpy(rows).double()).numpy()
    np.testing.assert_allclose(score(one, ImageFeatures(rows)), -found, rtol=1e-5)


def test_mixoe_and_a_probe_of_two_members_score_by_their_formulas(
    fitted: dict[str, Detector],
) -> None:
    own, rows = fitted["mixoe"].tensors, KNOWN.raw.astype(np.float64)
    if fitted["mixoe"].settings.embeddings == "unit":
        rows = unit(KNOWN.raw).astype(np.float64)
    probe = softmax(rows @ own["weight"].T.astype(np.float64) + own["bias"], axis=1)
    np.testing.assert_allclose(score(fitted["mixoe"]), probe.max(axis=1), rtol=1e-5)
    own = fitted["cooked"].tensors
    text = softmax(20.0 * unit(KNOWN.raw) @ own["class_features"].T, axis=1)
    rows = KNOWN.raw.astype(np.float64)
    probe = softmax(rows @ own["weight"].T.astype(np.float64) + own["bias"], axis=1)
    np.testing.assert_allclose(score(fitted["cooked"]), ((text + probe) / 2).max(axis=1), rtol=1e-5)


@PYTORCH_OOD
def test_agrees_with_more_of_pytorch_ood(fitted: dict[str, Detector]) -> None:
    import torch
    from pytorch_ood import detector as theirs
    from pytorch_ood.detector.ash import ash_b, ash_p, ash_s

    _, logits, bank_logits = head_of(fitted["kl-matching"])
    matching = theirs.KLMatching(None).fit_logits(torch.from_numpy(bank_logits))
    found = matching.predict_logits(torch.from_numpy(logits)).numpy()
    typical = kl_matching.typical_answers(softmax(bank_logits, axis=1))
    own = kl_matching.least_divergence(softmax(logits, axis=1), typical)
    np.testing.assert_allclose(own, found, rtol=1e-5, atol=1e-7)

    # Theirs looks at activations that are not negative.
    rows = np.abs(KNOWN.raw).astype(np.float64)
    for shape, other in (("s", ash_s), ("p", ash_p), ("b", ash_b)):
        made = other(torch.from_numpy(rows)[:, :, None, None], 0.65).numpy()[:, :, 0, 0]
        np.testing.assert_allclose(shaped(rows, shape, 0.65), made, rtol=1e-6)

    bank = unit(TRAINING.raw).astype(np.float64)
    ridge = 0.1 * float(np.var(bank, axis=0).mean())
    mixture = theirs.GMM(None, reg=ridge)
    mixture.fit_features(torch.from_numpy(bank), torch.from_numpy(TRAINING.labels))
    found = mixture.predict_features(torch.from_numpy(unit(KNOWN.raw)).double()).numpy()
    own = score(fit("gmm", components=1, directions=D, covariance="full"))
    np.testing.assert_allclose(own, -found, rtol=1e-5)
