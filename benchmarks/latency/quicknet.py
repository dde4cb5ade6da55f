"""Run QuickNet in Larq Compute Engine, for `peers.py`.

It runs in an environment of its own, which this makes.

    python3.10 -m venv LARQ
    LARQ/bin/pip install tensorflow-cpu==2.15.1 'numpy<2' 'typeguard==2.13.3' terminaltables click
    LARQ/bin/pip install --no-deps larq-compute-engine==0.13.0 larq==0.13.3 larq-zoo==2.3.2 zookeeper==1.3.3
    LARQ/bin/python benchmarks/latency/quicknet.py QuickNetLarge 1

Says "ready" when the network is converted, then for each line that it is given classifies one image, and says "done".
"""

# The environment is Larq's: nothing of this project can be imported here.
from __future__ import annotations

import os
import sys
from unittest.mock import MagicMock

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    # Two imports of larq-zoo that its networks do not need: data sets, and a function that moved within Keras.
    sys.modules["tensorflow_datasets"] = MagicMock(__spec__=None, decode=MagicMock(Decoder=object))
    import keras.applications.imagenet_utils
    import keras.src.applications.imagenet_utils
    import numpy as np

    keras.applications.imagenet_utils.obtain_input_shape = keras.src.applications.imagenet_utils.obtain_input_shape
    import larq_compute_engine
    import larq_zoo
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    network = getattr(larq_zoo.sota, name)(weights=None)
    numbers = np.random.default_rng(0)
    for layer in network.layers:
        if type(layer).__name__ == "BatchNormalization":
            # Scale, where there is one, and shift stay; mean and variance are the last two.
            values = layer.get_weights()
            values[-2:] = [numbers.normal(0, 0.2, values[-2].shape), numbers.uniform(0.5, 2, values[-1].shape)]
            layer.set_weights(values)
    interpreter = Interpreter(
        larq_compute_engine.convert_keras_model(network), num_threads=threads, use_indirect_bgemm=True
    )
    image = numbers.standard_normal((1, 224, 224, 3)).astype(np.float32)
    interpreter.predict(image)
    print("ready", flush=True)
    for _ in sys.stdin:
        interpreter.predict(image)
        print("done", flush=True)


if __name__ == "__main__":
    main()
