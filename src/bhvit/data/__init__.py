"""Images and labels: finding, reading and checking them, and metrics over them."""

from .dataset import Dataset, open_dataset
from .metrics import Metrics, evaluate

__all__ = ["Dataset", "Metrics", "evaluate", "open_dataset"]
