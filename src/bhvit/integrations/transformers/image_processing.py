"""`BHViTImageProcessor`: `Preprocess` as transformers' image processor, with the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from ...errors import UserError, counted
from ...hf_layout import PROCESSOR, preprocessor, read_preprocessor
from ...image import Preprocess
from .configuration import BHViTConfig

_USUAL: dict[str, Any] = {**preprocessor(Preprocess()), "draft": 0.0}
_NAMES = tuple(name for name in _USUAL if name != "image_processor_type")


class BHViTImageProcessor(BaseImageProcessor):
    """Turn images into pixel_values (B, C, H, W).

    The settings are those of `Preprocess` under transformers' names.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, **settings: Any) -> None:
        own = {name: settings.pop(name, _USUAL[name]) for name in _NAMES}
        self.whole_image = bool(settings.pop("whole_image", False))
        super().__init__(**settings)
        read_preprocessor({"image_processor_type": PROCESSOR, **own})
        for name, value in own.items():
            setattr(self, name, value)

    def settings(self, **changes: Any) -> Preprocess:
        """The settings, with changes by their names here. Raises UserError for what means nothing."""
        unknown = sorted(changes.keys() - set(_NAMES))
        if unknown:
            raise UserError(f"{PROCESSOR} has no setting {unknown[0]}; it has {', '.join(_NAMES)}")
        own = {name: getattr(self, name) for name in _NAMES}
        return read_preprocessor({"image_processor_type": PROCESSOR, **own, **changes})

    def preprocess(self, images: Any, return_tensors: Any = None, **changes: Any) -> BatchFeature:
        """Compute the pixel_values (B, C, H, W) of one image or a list.

        images: PIL images, paths, or uint8 arrays or tensors, channels first or last; an array of four axes is a batch.
        return_tensors: "pt", "np", or None for NumPy. changes: settings for this call alone.
        Raises UserError for what is not an image, and for no images.
        """
        preprocess = self.settings(**changes)
        batch = images if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4 else [images]
        if not len(batch):
            raise UserError("there are no images to process")
        pixels = [self._prepared(preprocess, self._channels_last(image)) for image in batch]
        return BatchFeature(data={"pixel_values": np.concatenate(pixels)}, tensor_type=return_tensors)

    def _prepared(self, preprocess: Preprocess, image: Any) -> npt.NDArray[np.float32]:
        """One image, (1, C, H, W): the whole of it for a segmentation."""
        return preprocess.normalize(preprocess.whole(image)[None]) if self.whole_image else preprocess(image)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Any]:
        """Label maps, a tensor (height, width) each, of `outputs.logits` (B, labels, H, W).

        target_sizes: the size of each, to which the labels are resized to the nearest one; None leaves the model's.
        """
        import torch

        from ...runtime.label_maps import resized

        maps = outputs.logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
        own = (int(maps.shape[1]), int(maps.shape[2]))
        sizes = [own] * len(maps) if target_sizes is None else [(int(h), int(w)) for h, w in target_sizes]
        if len(sizes) != len(maps):
            raise UserError(f"{len(sizes)} target_sizes for {counted(len(maps), 'image')}: one is needed for each")
        found = (np.array(resized(one, size), np.int64) for one, size in zip(maps, sizes))
        return [torch.from_numpy(one) for one in found]

    def _channels_last(self, image: Any) -> Any:
        """The image, an array or tensor with its channels last."""
        if not hasattr(image, "ndim"):
            return image
        array: npt.NDArray[Any] = np.asarray(image)
        counts = {1, 3, 4, self.num_channels}
        if array.ndim == 3 and array.shape[2] not in counts and array.shape[0] in counts:
            return array.transpose(1, 2, 0)
        return array


def _register() -> None:
    # Here and not above, since importing it imports this module first, where bhvit was imported before.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    AutoImageProcessor.register(BHViTConfig, slow_image_processor_class=BHViTImageProcessor, exist_ok=True)


_register()
