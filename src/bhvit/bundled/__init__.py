"""Trained models that come with the package, by name wherever a file of a model is asked for.

Each is a packed file, a checkpoint to start other training from, whose numbers are float16, and a model card.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "cifar10"
"""The one that is used where none is named."""


def list_packaged() -> list[str]:
    """Names of the packaged models, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.bhv"))


def find(path: str | Path, suffix: str) -> Path:
    """`path`; where nothing is there and it is the name of a packaged model, that model's file with `suffix`."""
    path = Path(path)
    named = FOLDER / f"{path}{suffix}"
    return named if len(path.parts) == 1 and not path.exists() and named.is_file() else path


def instead(path: str | Path) -> str:
    """What an error adds where `path` is absent and may be meant for the name of a packaged model: their names."""
    path = Path(path)
    meant = len(path.parts) == 1 and not path.suffix and not path.exists()
    return f"; packaged models: {', '.join(list_packaged())}" if meant else ""


def is_packed(path: str | Path) -> bool:
    """Whether `path` names a packed model: by its suffix, as a packaged one, or by how the file begins."""
    path = find(path, ".bhv")
    if path.suffix == ".bhv":
        return True
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"  # safetensors: eight bytes of length, then JSON
    except OSError:
        return False
