"""Features and explanations of a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session, UserError
from bhvit.format import file as bhv_file
from bhvit.format.arithmetic import float_linear, untile
from bhvit.format.ops import head
from bhvit.runtime import reference, saliency
from bhvit.runtime.insight import Explanation
from bhvit.spec.model import ModelSpec
from bhvit.verification.saliency import faithfulness
from helpers.random_model import random_images, random_model
from helpers.small_specs import SPECS

BY_NAME = {spec.name: spec for spec in SPECS}
ATTENTIVE = ("one-channel", "tall-windows", "one-bit-pooled", "layer-gsb")


def session_of(spec: ModelSpec) -> tuple[Session, bhv_file.PackedModel]:
    model = random_model(spec)
    return Session(bhv_file.to_bytes(model)), model


@pytest.mark.parametrize("name", ["one-channel", "layer-gsb", "pooling"])
def test_features_are_what_the_classifier_gets(name: str) -> None:
    session, model = session_of(BY_NAME[name])
    images = random_images(model.spec, 3)
    features = session.embed(images)
    op = model.ops[-1]
    tensors = model.op_tensors(op)
    assert (features.shape, features.dtype) == ((3, op.attributes["channels"]), np.dtype(np.float32))
    logits = float_linear(features, untile(tensors["weight"], len(model.class_names)), tensors["bias"])
    np.testing.assert_array_equal(logits, session(images))
    *_, (_, tokens), _ = reference.trace(model, images[0])  # NumPy gives the same bits
    np.testing.assert_array_equal(head.pooled(op, tensors, tokens), features[0])
    assert session.embed(images[:0]).shape == (0, op.attributes["channels"])


def test_features_of_pictures() -> None:
    session, _ = session_of(BY_NAME["tall-windows"])
    pictures = np.random.default_rng(0).integers(0, 256, (2, 30, 50, 3), np.uint8)
    expected = np.concatenate([session.preprocess(picture) for picture in pictures])
    np.testing.assert_array_equal(session.embed(pictures), session.embed(expected))
    assert session.embed(pictures[:0]).shape[0] == 0
    for wrong in (pictures[0], expected[0], [1], expected.astype(np.float64)):
        with pytest.raises(UserError, match="images must be"):
            session.embed(wrong)  # type: ignore[arg-type]


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path, images = tmp_path / "model.bhv", random_images(BY_NAME["one-channel"], 1)
    bhv_file.write(random_model(BY_NAME["one-channel"]), path)
    session = Session(path)
    bhv_file.write(random_model(BY_NAME["one-channel"], seed=1), path)
    with pytest.raises(UserError, match="has changed since it was opened"):
        session.embed(images)
    path.unlink()
    with pytest.raises(UserError, match="cannot read"):
        session.embed(images)
    assert session(images).shape == (1, 3)


def test_occlusion_finds_the_part_that_an_answer_depends_on() -> None:
    def predict(images: Any) -> Any:
        score = images[:, 0, 2:4, 10:14].mean(axis=(1, 2))
        return np.stack([score, -score], axis=1).astype(np.float32)

    image = np.zeros((1, 12, 20), np.float32)
    image[0, 2:4, 10:14] = 2
    heat = saliency.occlusion(predict, image, 0)
    assert heat.shape == (12, 20)
    assert heat[2:4, 11:13].min() > 4 * heat[8:, :6].max()
    assert saliency.occlusion(predict, image, 1).max() < 1e-6  # hiding only helps the other class
    whole = faithfulness(predict, image, heat, 0)
    against = faithfulness(predict, image, -heat, 0)
    assert whole.deletion < against.deletion
    assert whole.insertion > against.insertion
    assert 0 <= whole.deletion <= whole.insertion <= 1


@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_adds_up_what_tokens_receive(name: str) -> None:
    session, model = session_of(BY_NAME[name])
    image = random_images(model.spec, 1)
    found = session.explain_prepared(image, "attention")
    assert found.heat.shape == tuple(model.spec.img_size)
    assert (found.heat.min() >= 0, found.heat.max(), found.method) == (True, 1, "attention")
    assert found.heat.std() > 0
    heat = saliency.attention(model, lambda one: list(reference.trace(model, one)), image[0])
    assert heat is not None
    np.testing.assert_array_equal(found.heat, heat / heat.max())
    layers = [op.attributes for op in model.ops if op.kind in ("attention", "pooled_attention")]
    tokens = [a["height"] * a["width"] // a.get("key_pool", 1) ** 2 for a in layers]
    # The shares of a layer's tokens add up to one, and each token stands for so many pixels.
    assert heat.sum() == pytest.approx(sum(heat.size / count for count in tokens), rel=1e-5)


def test_explanations_of_a_picture() -> None:
    session, _ = session_of(BY_NAME["tall-windows"])
    picture = np.random.default_rng(0).integers(0, 256, (8, 24, 3), np.uint8)
    found = session.explain(picture)
    assert isinstance(found, Explanation)
    assert (found.name, found.probability) == session.classify(picture, 1)[0]
    assert session.explain(picture, name="class 0").name == "class 0"
    with pytest.raises(UserError, match="a method is one of occlusion, attention, not 'gradcam'"):
        session.explain(picture, "gradcam")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not know the class 'dog'"):
        session.explain(picture, name="dog")
    convolutions, _ = session_of(BY_NAME["three-groups-of-hidden"])
    with pytest.raises(UserError, match="has no attention with levels"):
        convolutions.explain(np.zeros((12, 20, 3), np.uint8), "attention")
