"""Trained models found by name wherever a model file is expected.

Some ship with the package; others, too large for it, are looked for in a folder of downloaded models. Each is a packed
file, and may have a checkpoint with float16 latent weights to start training from, and a model card.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..errors import UserError
from ..files import is_side_file

FOLDER = Path(__file__).parent
DEFAULT = "cifar10"
"""The model used where none is named."""


def downloads() -> Path | None:
    """The folder of downloaded models: `BHVIT_MODELS`, else .local/share/bhvit/models at home; None without a home."""
    if given := os.environ.get("BHVIT_MODELS"):
        return Path(given)
    try:
        return Path.home() / ".local" / "share" / "bhvit" / "models"
    except RuntimeError:
        return None


def list_bundled(suffix: str = ".bhv") -> list[str]:
    """Return the names of bundled and downloaded models that have a file with `suffix`, sorted.

    Not every model comes with a checkpoint.
    """
    found = [path for folder in _folders() for path in folder.glob(f"*{suffix}")]
    return sorted({path.stem for path in found if not is_side_file(path.name)})


def find(path: str | Path, suffix: str) -> Path:
    """Return `path`, or the file of the model that it names.

    That is the named model's file with `suffix`, if nothing is at `path` and there is such a model. Models that ship
    with the package come first.
    """
    path = Path(path)
    if len(path.parts) == 1 and not path.exists():
        for folder in _folders():
            named = folder / f"{path}{suffix}"
            with contextlib.suppress(OSError):  # a home that this user may not look into, as containers have
                if named.is_file():
                    return named
    return path


def found_by_name(path: Path) -> bool:
    """Whether `path`, from `find`, is a named model's file: nothing is written next to it."""
    return path.parent in _folders()


def _folders() -> list[Path]:
    folder = downloads()
    return [FOLDER] if folder is None else [FOLDER, folder]


def hint(path: str | Path, suffix: str = ".bhv") -> str:
    """Return a hint of named models if `path` looks like a name, else "".

    Those are the models with a file of `suffix`.
    """
    path = Path(path)
    meant = len(path.parts) == 1 and not path.suffix and not path.exists()
    if not meant:
        return ""
    alone = "" if str(path) not in list_bundled() else f": {path} is packed alone, without one to train from"
    return f"{alone}; bundled models: {', '.join(list_bundled(suffix))}"


def check_name(path: Path, suffix: str) -> None:
    """Raise UserError if `path`, from `find`, is a name that no model has: before PyTorch is loaded, or missed."""
    if known := hint(path, suffix):
        raise UserError(f"there is no file {path}{known}")


def is_packed(path: str | Path) -> bool:
    """Whether `path` is a packed model, by suffix, name or first bytes."""
    path = find(path, ".bhv")
    if path.suffix == ".bhv":
        return True
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return False
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"  # safetensors: eight bytes of length, then JSON
    except (OSError, ValueError):
        return False
