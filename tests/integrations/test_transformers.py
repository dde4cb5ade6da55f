"""The models as transformers has them: configuration, image classifier, image processor, pipeline, Trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("transformers", reason="the extra bhvit[transformers] is not installed")

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.utils.logging import disable_progress_bar

import bhvit
from bhvit.errors import UserError
from bhvit.image import Preprocess
from bhvit.integrations.transformers import BHViTConfig, BHViTForImageClassification, BHViTImageProcessor
from bhvit.models import BHViT, create_model, model_spec, trace
from helpers.randomise import randomise

disable_progress_bar()
NAMES = ("cat", "dog", "naïve ✓")
PREPROCESS = Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 1 / 3), crop=0.9, interpolation="bilinear")


@pytest.fixture(scope="module")
def model() -> BHViT:
    model = randomise(create_model("bhvit_nano", num_classes=3))
    model.class_names, model.preprocess = NAMES, PREPROCESS
    return model


@pytest.fixture(scope="module")
def folder(model: BHViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "RuntimeWarning" not in result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "first",
    [
        "import bhvit; from transformers import pipeline",
        "from transformers import AutoImageProcessor, AutoModelForImageClassification; import bhvit",
        "import bhvit.integrations.transformers.modeling",
        "import bhvit.models, transformers",
    ],
)
@pytest.mark.long
def test_either_order_of_importing_registers_the_classes(first: str, folder: Path) -> None:
    code = f"""
{first}
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
for auto in (AutoConfig, AutoImageProcessor, AutoModelForImageClassification):
    print(type(auto.from_pretrained({str(folder)!r})).__name__)
"""
    assert _python(code).split() == ["BHViTConfig", "BHViTImageProcessor", "BHViTForImageClassification"]


def test_importing_both_loads_no_more_than_transformers_alone() -> None:
    code = "import sys, transformers\nprint('torch' in sys.modules, 'transformers.models.auto' in sys.modules)"
    assert _python(f"import bhvit\n{code}") == _python(code)


def test_a_missing_extra_is_reported_with_the_install_command() -> None:
    code = "import sys; sys.modules['transformers'] = None\ntry:\n    import bhvit.integrations.transformers\n"
    code += "except ImportError as error:\n    print(error)"
    assert _python(code) == (
        "this needs transformers, which is not installed: install bhvit with the extra 'transformers', "
        "for example pip install '.[transformers]' in its checkout"
    )


def test_a_folder_of_ours_gives_the_same_logits(folder: Path, model: BHViT, picture: Image.Image) -> None:
    loaded, report = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert isinstance(loaded, BHViTForImageClassification)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    pixels = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
    assert torch.equal(loaded(**pixels).logits, model(torch.tensor(PREPROCESS(picture))))
    assert loaded.config.id2label == dict(enumerate(NAMES))
    assert (loaded.config.image_size, loaded.config.num_channels) == ((32, 32), 3)
    assert (loaded.bhvit.spec, loaded.bhvit.class_names) == (model.spec, NAMES)


def test_what_transformers_saves_loads_as_ours(folder: Path, model: BHViT, tmp_path: Path) -> None:
    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    back = BHViT.from_pretrained(tmp_path)
    assert (back.spec, back.class_names, back.preprocess) == (model.spec, NAMES, PREPROCESS)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(images), model(images))
    bhvit.pack(back, tmp_path / "m.bhv")
    assert bhvit.Session(tmp_path / "m.bhv").class_names == NAMES


def test_outputs_hold_what_flows_in_between(folder: Path, model: BHViT) -> None:
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    images = torch.randn(2, 3, 32, 32)
    output = loaded(images, output_hidden_states=True, output_attentions=True)
    assert output.loss is None
    seen = {name: grid for name, grid in trace(model, images).items() if name == "stem" or name.endswith("mlp")}
    assert len(output.hidden_states) == 1 + 6
    for state, grid in zip(output.hidden_states, seen.values(), strict=True):
        assert torch.equal(state.permute(0, 2, 3, 1), grid)
    assert [tuple(matrix.shape) for matrix in output.attentions] == [(2, 1, 2, 17, 17)] * 2 + [(2, 1, 4, 5, 5)] * 2
    step = model.get_parameter("stages.1.0.mixer.attention.quantizer.step")
    levels = output.attentions[0] / step.view(-1, 1, 1)
    torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
    assert set(levels.round().unique().tolist()) <= {0, 1, 2, 3}
    assert loaded(images).hidden_states is None
    assert loaded(images).attentions is None
    logits, states = loaded(images, output_hidden_states=True, return_dict=False)
    assert torch.equal(logits, output.logits)
    assert len(states) == 7
    loaded.config.output_attentions = True
    assert len(loaded(images).attentions) == 4


def test_binaryvit_gives_its_attention_too() -> None:
    config = BHViTConfig(model_spec("binaryvit_small", img_size=64, num_classes=4))
    output = BHViTForImageClassification(config).eval()(torch.randn(1, 3, 64, 64), output_attentions=True)
    assert len(output.attentions) == 3 + 4 + 8 + 4
    assert output.attentions[0].shape == (1, 1, 256, 4)


@pytest.mark.parametrize(("problem", "labels"), [(None, [0, 2]), ("multi_label_classification", [[1.0, 0, 1]] * 2)])
def test_labels_give_the_loss(folder: Path, problem: str | None, labels: list[Any]) -> None:
    loaded = AutoModelForImageClassification.from_pretrained(folder, problem_type=problem)
    target = torch.tensor(labels)
    output = loaded(torch.randn(2, 3, 32, 32), labels=target)
    loss = F.binary_cross_entropy_with_logits if problem else F.cross_entropy
    torch.testing.assert_close(output.loss, loss(output.logits, target))


def test_the_pipeline_says_what_the_packed_file_says(
    folder: Path, model: BHViT, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "picture.png")
    answers = pipeline("image-classification", model=str(folder))(str(tmp_path / "picture.png"))
    bhvit.pack(model, tmp_path / "m.bhv", float_storage="float32")
    expected = bhvit.Session(tmp_path / "m.bhv").classify(tmp_path / "picture.png", top=3)
    assert [answer["label"] for answer in answers] == [name for name, _ in expected]
    assert [answer["score"] for answer in answers] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_the_image_processor_is_the_preprocessing(picture: Image.Image, tmp_path: Path) -> None:
    processor = BHViTImageProcessor(image_mean=[0.5] * 3, size={"height": 40, "width": 24}, crop_pct=1.0)
    preprocess = Preprocess(size=(40, 24), mean=(0.5,) * 3, crop=1.0)
    expected = preprocess(picture)
    array = np.asarray(picture)
    picture.save(tmp_path / "picture.png")
    several = [picture, array, torch.tensor(array).permute(2, 0, 1), tmp_path / "picture.png"]
    for image in several:
        assert np.array_equal(processor(image)["pixel_values"], expected)
    assert np.array_equal(processor(several)["pixel_values"], np.concatenate([expected] * 4))
    assert np.array_equal(processor(np.stack([array, array]))["pixel_values"], np.concatenate([expected] * 2))
    assert processor(picture, return_tensors="pt")["pixel_values"].dtype == torch.float32
    assert processor(picture, size={"height": 16, "width": 16})["pixel_values"].shape == (1, 3, 16, 16)
    grey = BHViTImageProcessor(num_channels=1, image_mean=[0.5], image_std=[0.5])
    assert grey(array[:, :, 0])["pixel_values"].shape == (1, 1, 224, 224)
    with pytest.raises(UserError, match="has no setting do_resize"):
        processor(picture, do_resize=False)
    with pytest.raises(UserError, match="must be uint8"):
        processor(array.astype(np.float32))
    with pytest.raises(UserError, match="no images"):
        processor([])
    with pytest.raises(UserError, match="std must be positive"):
        BHViTImageProcessor(image_std=[0, 1, 1])


def test_a_configuration_comes_from_a_name_a_spec_or_its_fields(tmp_path: Path) -> None:
    spec = model_spec("bhvit_nano", num_classes=5, img_size=48)
    for given in (spec, json.loads(spec.to_json())):
        assert BHViTConfig(given).model_spec() == spec
    assert BHViTConfig("bhvit_tiny").model_spec() == model_spec("bhvit_tiny")
    assert BHViTConfig().num_labels == 1000
    config = BHViTConfig(spec, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, drop_path=0.1)
    config.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert back.model_spec() == model_spec("bhvit_nano", num_classes=2, img_size=48)
    assert (back.class_names(), back.drop_path) == (("a", "b"), 0.1)
    assert BHViTConfig(spec).class_names() is None
    with pytest.raises(UserError, match="did you mean bhvit_nano"):
        BHViTConfig("bhvit_nan")
    with pytest.raises(UserError, match="description is damaged"):
        BHViTConfig({"name": "x"})


def test_other_labels_take_a_new_classifier_and_keep_the_rest(folder: Path, model: BHViT) -> None:
    torch.manual_seed(0)
    labels = {index: f"kind {index}" for index in range(7)}
    loaded = AutoModelForImageClassification.from_pretrained(folder, id2label=labels, ignore_mismatched_sizes=True)
    assert loaded.bhvit.spec.num_classes == 7
    assert loaded.bhvit.head.linear.bias.tolist() == [0] * 7
    assert 0.015 < loaded.bhvit.head.linear.weight.std() < 0.025
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.bhvit.forward_features(images), model.forward_features(images))


def test_a_new_model_is_initialised_as_ours_is() -> None:
    torch.manual_seed(0)
    config = BHViTConfig(model_spec("bhvit_nano", num_classes=3))
    made = AutoModelForImageClassification.from_config(config).bhvit
    ours = create_model("bhvit_nano", num_classes=3)
    for (name, a), b in zip(made.state_dict().items(), ours.state_dict().values(), strict=True):
        if a.is_floating_point() and a.numel() > 1000:
            torch.testing.assert_close(a.std(), b.std(), rtol=0.2, atol=0, msg=name)
        elif a.numel() <= 1000 and not name.startswith(("stem.conv", "head.linear")) and ".convs." not in name:
            assert torch.equal(a, b), name


class Halves(torch.utils.data.Dataset[dict[str, Any]]):
    """Images bright on top or below, and which of the two."""

    def __init__(self, processor: BHViTImageProcessor) -> None:
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 120, (16, 32, 32, 3), dtype=np.uint8)
        for index, image in enumerate(pixels):
            image[16 * (index % 2) : 16 * (index % 2) + 16] += 120
        self.pixels = processor(list(pixels))["pixel_values"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": index % 2}


def test_the_trainer_trains_saves_and_what_it_saved_gives_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    labels = {0: "above", 1: "below"}
    config = BHViTConfig("bhvit_nano", id2label=labels, label2id={name: index for index, name in labels.items()})
    model = BHViTForImageClassification(config)
    processor = BHViTImageProcessor(size={"height": 32, "width": 32})
    data = Halves(processor)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=6,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_steps=3,
        eval_strategy="steps",
        eval_steps=6,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, processing_class=processor)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trainer.save_model(str(tmp_path / "done"))
    predicted = trainer.predict(data).predictions
    back = AutoModelForImageClassification.from_pretrained(tmp_path / "done")
    ours = BHViT.from_pretrained(tmp_path / "done")
    assert ours.class_names == ("above", "below")
    assert ours.preprocess == Preprocess(size=(32, 32))
    images = torch.tensor(data.pixels)
    with torch.no_grad():
        assert torch.equal(back(images).logits, ours(images))
        np.testing.assert_allclose(ours(images).numpy(), predicted, rtol=1e-4, atol=1e-5)
    again = Trainer(
        BHViTForImageClassification(config),
        arguments,
        train_dataset=data,
        eval_dataset=data,
        processing_class=processor,
    )
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    np.testing.assert_allclose(again.predict(data).predictions, predicted, rtol=1e-4, atol=1e-4)


def test_a_segmentation_goes_through_a_folder_and_the_pipeline(tmp_path):
    model = create_model("bhvit_scene", num_classes=3, img_size=(32, 48), patch=8, task="segment").eval()
    model.class_names = ("sky", "road", "car")
    model.save_pretrained(tmp_path)
    assert "image-segmentation" in (tmp_path / "README.md").read_text()
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="labels pixels: AutoModelForSemanticSegmentation loads it"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3)).astype(np.uint8))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    inputs = processor(picture, return_tensors="pt")
    with torch.no_grad():
        outputs = again(**inputs, labels=torch.zeros(1, 32, 48, dtype=torch.long))
        torch.testing.assert_close(outputs.logits, model(inputs["pixel_values"]))
    assert torch.isfinite(outputs.loss)
    (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(40, 90)])
    assert labels.shape == (40, 90)
    bhvit.pack(model, tmp_path / "model.bhv")
    agreement = (labels.numpy() == bhvit.Session(tmp_path / "model.bhv").segment(picture)).mean()
    assert agreement > 0.99
    found = pipeline("image-segmentation", model=str(tmp_path))(picture)
    assert {part["label"] for part in found} <= {"sky", "road", "car"}
    assert sum(np.asarray(part["mask"]).astype(bool).sum() for part in found) == 40 * 90
