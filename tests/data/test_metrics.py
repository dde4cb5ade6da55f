"""Metrics against small cases worked out by hand, and evaluation over batches."""

from __future__ import annotations

import numpy as np
import pytest

from bhvit.data.dataset import open_dataset
from bhvit.data.metrics import NonFiniteLogitsError, agreement, decode, evaluate, metrics
from bhvit.data.segmentation_metrics import SegmentationMetrics
from bhvit.errors import UserError
from bhvit.image import Preprocess
from bhvit.verification.predictors import labels_of

LOGITS = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 1], [0, 0, 5]], dtype=np.float32)
NAMES = ("a", "b", "c")


def test_accuracies_confusion_and_loss():
    result = metrics(LOGITS, np.array([0, 2, 2, 2]), NAMES)
    assert result.predictions.tolist() == [0, 1, 0, 2]
    assert result.top1 == 0.5
    assert result.top(2) == 1.0
    assert result.top5 == 1.0
    assert result.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    np.testing.assert_allclose(result.per_class, [1, np.nan, 1 / 3])
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor([0, 2, 2, 2])).item()
    assert result.cross_entropy == pytest.approx(expected, rel=1e-6)
    assert result.to_dict()["per_class"]["b"] is None


def test_classes_of_one_name_are_told_apart():
    result = metrics(LOGITS, np.array([0, 2, 2, 2]), ("crane", "dog", "crane"))
    assert result.to_dict()["per_class"] == {"crane (0)": 1.0, "dog": None, "crane (2)": pytest.approx(1 / 3)}
    pixels = SegmentationMetrics(class_names=("a", "a"), confusion=np.array([[1, 0], [1, 1]]), images=1)
    assert pixels.to_dict()["per_class"] == {"a (0)": 0.5, "a (1)": 0.5}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_no_labels(value):
    logits = np.zeros((2, 3, 4), np.float32)
    assert (labels_of(logits) == 0).all()
    logits[1, 2, 3] = value
    with pytest.raises(NonFiniteLogitsError, match="not finite"):
        labels_of(logits)


def test_calibration_is_the_gap_between_confidence_and_frequency():
    # Four answers at 0.8, of which three are right, and one at 0.97 that is wrong: gaps of 0.2 and 0.97.
    logits = np.log(np.array([[0.8, 0.2]] * 4 + [[0.97, 0.03]], dtype=np.float32))
    result = metrics(logits, np.array([0, 0, 0, 1, 1]), ("a", "b"))
    assert result.calibration_error == pytest.approx((4 * 0.05 + 0.97) / 5, abs=1e-6)
    assert result.to_dict()["calibration_error"] == result.calibration_error
    sure = metrics(np.array([[1e4, 0], [0, 1e4]], np.float32), np.array([0, 1]), ("a", "b"))
    assert sure.calibration_error == 0


def test_agreement_counts_equal_predictions():
    labels = np.array([0, 1, 2, 2])
    other = LOGITS.copy()
    other[3] = [9, 0, 0]
    assert agreement(metrics(LOGITS, labels, NAMES), metrics(other, labels, NAMES)) == 0.75
    with pytest.raises(ValueError, match="same images"):
        agreement(metrics(LOGITS, labels, NAMES), metrics(LOGITS[:2], labels[:2], NAMES))


def test_every_image_is_seen_once_and_in_order():
    pytest.importorskip("sklearn")
    dataset = open_dataset("digits", "test").subset(range(10))
    preprocess = Preprocess(size=(8, 8), crop=1.0)
    seen, done = [], []

    def predict(images):
        seen.append(images)
        return np.zeros((len(images), 10), np.float32)

    evaluate(predict, dataset, preprocess, batch_size=4, progress=lambda count, total: done.append((count, total)))
    assert [len(images) for images in seen] == [4, 4, 2]
    assert done == [(4, 10), (8, 10), (10, 10)]
    np.testing.assert_array_equal(np.concatenate(seen)[7], preprocess(dataset.image(7))[0])
    pixels = decode(dataset, preprocess, range(10))
    again = list(seen)
    seen.clear()
    evaluate(predict, dataset, preprocess, batch_size=4, pixels=pixels)
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate(again))


def test_other_class_counts_and_empty_sets_are_refused():
    pytest.importorskip("sklearn")
    dataset = open_dataset("digits", "test").subset(range(2))
    with pytest.raises(UserError, match="3 classes"):
        evaluate(lambda images: LOGITS[:2], dataset, Preprocess(size=(8, 8)))
    with pytest.raises(UserError, match="no images"):
        evaluate(lambda images: LOGITS, dataset.subset([]), Preprocess(size=(8, 8)))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((3, 2), [0, 1, 5], "labels go from 0 to 5, classes from 0 to 1"),
        ((3, 2), [0, -1, 1], "labels go from -1 to 1, classes from 0 to 1"),
        ((0, 2), [], "there are no images"),
        ((3,), [0, 1, 1], "logits must be"),
        ((2, 2), [0, 1, 1], "logits must be"),
        ((3, 4), [0, 1, 1], "the model gives 4 classes, the data set has 2"),
    ],
)
def test_metrics_of_what_does_not_fit_are_refused(shape: tuple[int, ...], labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics(np.zeros(shape, np.float32), np.array(labels, np.int64), ("cat", "dog"))


@pytest.mark.parametrize("labels", [[0.0, 1.0], [0.0, float("nan")], [True, False]])
def test_labels_that_are_no_whole_numbers_are_refused(labels: list[float]) -> None:
    with pytest.raises(UserError, match="labels must be whole numbers, not"):
        metrics(np.zeros((2, 2), np.float32), np.array(labels), ("a", "b"), seconds=1.0)
