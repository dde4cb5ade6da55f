"""Trained models that ship with the package, found by name wherever a model file is expected.

Each is a packed file, a checkpoint with float16 latent weights to start training from, and a model card.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "cifar10"
"""The model used where none is named."""


def list_bundled() -> list[str]:
    """Return the names of the bundled models, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.bhv"))


def find(path: str | Path, suffix: str) -> Path:
    """Return `path`, or the bundled model's file with `suffix` if nothing is at `path` and it is a bundled name."""
    path = Path(path)
    named = FOLDER / f"{path}{suffix}"
    return named if len(path.parts) == 1 and not path.exists() and named.is_file() else path


def hint(path: str | Path) -> str:
    """Hint listing the bundled models when `path` looks like a model name; empty otherwise."""
    path = Path(path)
    meant = len(path.parts) == 1 and not path.suffix and not path.exists()
    return f"; bundled models: {', '.join(list_bundled())}" if meant else ""


def is_packed(path: str | Path) -> bool:
    """Whether `path` is a packed model: by suffix, by bundled name, or by how the file begins."""
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
