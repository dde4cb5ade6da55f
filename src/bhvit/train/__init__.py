"""Training, in PyTorch."""

from ..errors import require_extra

try:
    import timm  # noqa: F401
    import torch  # noqa: F401
    import tqdm  # noqa: F401
except ModuleNotFoundError as error:
    raise require_extra(error.name or "torch", "train") from None

from .callbacks import Callback, RunInfo
from .config import TrainConfig
from .loop import Result, train
from .recipe_files import load_recipe, recipe_names

__all__ = ["Callback", "Result", "RunInfo", "TrainConfig", "load_recipe", "recipe_names", "train"]
