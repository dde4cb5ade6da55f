"""Compare explanations by deletion and insertion scores, on the bundled model.

    python -m benchmarks.explain.explain --data ../shared/data/cifar10 --images 200

Writes `results.md` next to this file. The method with the best difference of insertion and deletion is the default of
`bhvit explain` and `Session.explain`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import markdown, write_results

import bhvit
from bhvit.bits import Floats
from bhvit.bundled import find
from bhvit.data.dataset import evenly, open_dataset
from bhvit.data.metrics import decode
from bhvit.format import file as bhv_file
from bhvit.models.layercam import layercam
from bhvit.runtime import saliency
from bhvit.verification.saliency import faithfulness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--model", default="cifar10", help="a bundled model: its packed file and its checkpoint")
    parser.add_argument("--images", type=int, default=200, help="evenly chosen among those that are answered right")
    args = parser.parse_args()
    torch.set_num_threads(1)
    session, file = bhvit.Session(args.model), bhv_file.read(find(args.model, ".bhv"))
    model = bhvit.load_checkpoint(args.model)
    dataset = open_dataset(args.data, "test", class_names=file.class_names)
    dataset = dataset.subset(evenly(len(dataset), 3 * args.images))
    images = file.preprocess.normalize(decode(dataset, file.preprocess, range(len(dataset))))
    right = np.flatnonzero(session(images).argmax(axis=1) == dataset.labels)[: args.images]
    images, labels = images[right], dataset.labels[right]
    rng = np.random.default_rng(0)

    def cam(stage: int) -> Callable[[Floats, int], Floats]:
        def method(image: Floats, label: int) -> Floats:
            found: Floats = layercam(model, torch.from_numpy(image[None]), torch.tensor([label]), stage)[0].numpy()
            return found

        return method

    def centre(image: Floats, label: int) -> Floats:
        y, x = np.mgrid[-1 : 1 : image.shape[1] * 1j, -1 : 1 : image.shape[2] * 1j]
        return np.asarray(-np.hypot(x, y), np.float32)

    methods: dict[str, Callable[[Floats, int], Floats]] = {
        "occlusion, squares of 1/2": lambda image, label: saliency.occlusion(session, image, label, 2),
        "occlusion, squares of 1/4": lambda image, label: saliency.occlusion(session, image, label, 4),
        "occlusion, squares of 1/8": lambda image, label: saliency.occlusion(session, image, label, 8),
        "attention levels": lambda image, label: saliency.attention(file, session.program.trace, image),  # type: ignore[dict-item, return-value]
        **{f"LayerCAM, stage {stage}": cam(stage) for stage in range(len(model.stages))},
        "distance to the centre": centre,
        "random": lambda image, label: rng.random(image.shape[1:]).astype(np.float32),
    }
    rows = []
    for name, method in methods.items():
        begin = time.perf_counter()
        maps = [method(image, int(label)) for image, label in zip(images, labels, strict=True)]
        milliseconds = 1000 * (time.perf_counter() - begin) / len(images)
        found = np.array([faithfulness(session, *each) for each in zip(images, maps, map(int, labels), strict=True)])
        deletion, insertion = found.mean(axis=0)
        spread = (found[:, 1] - found[:, 0]).std() / len(images) ** 0.5
        rows.append(
            [
                name,
                f"{deletion:.3f}",
                f"{insertion:.3f}",
                f"{insertion - deletion:+.3f} ± {spread:.3f}",
                f"{milliseconds:.1f}",
            ]
        )
        print(rows[-1], flush=True)
    header = ["Map", "Deletion (low is good)", "Insertion (high is good)", "Difference", "ms an image"]
    text = f"""Mean areas under the probability of the right class, over {len(images)} test images that \
`{args.model}` answers right, while a sixteenth of the pixels after the other becomes the image's mean colour \
(deletion) or replaces it (insertion), the most important first; ± is the standard error. Occlusion hides with the \
same colour, which favours it. One thread of a machine that did other work, too.

{markdown(header, rows)}

Occlusion asks the packed file itself, so it needs neither PyTorch nor gradients through signs."""
    write_results(Path(__file__).with_name("results.md"), "What an answer depends on", text)


if __name__ == "__main__":
    main()
