"""The models of a server: files and folders, watched, and replaced while requests run."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .. import bundled
from ..errors import UserError
from ..files import is_side_file
from ..runtime import Session
from ..spec.model import Task

Stamp = tuple[int, int, int]
"""What of a file changes when it is replaced: time of change in nanoseconds, size, inode."""
Say = Callable[..., None]
"""Takes the name of an event and its fields."""


class Model:
    """A model that is ready, with a session for each worker; weights are shared."""

    def __init__(self, name: str, session: Session, workers: int) -> None:
        self.name, self.session = name, session
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._requests = self._images = 0
        self._last = 0
        for copy in (session, *(session.copy() for _ in range(workers - 1))):
            self._free.put(copy)

    def count(self, images: int) -> None:
        """Note that a request of so many images has been answered."""
        with self._lock:
            self._requests += 1
            self._images += images
            self._last = int(1000 * time.time())

    def statistics(self) -> dict[str, object]:
        """What the protocol's statistics extension says of it."""
        return {
            "name": self.name,
            "version": "1",
            "last_inference": self._last,
            "inference_count": self._images,
            "execution_count": self._requests,
        }

    @contextmanager
    def borrowed(self) -> Iterator[Session]:
        """A session for this thread alone; waits until one is free."""
        session = self._free.get()
        try:
            yield session
        finally:
            self._free.put(session)


@dataclasses.dataclass(frozen=True)
class SessionOptions:
    """How each model is opened."""

    threads: int = 1
    isa: str = "auto"
    max_memory: int | None = None


class Models:
    """The models of files and folders by name, as they are on the disk now."""

    def __init__(self, sources: Sequence[str | Path], workers: int, options: SessionOptions, say: Say) -> None:
        """Open all models.

        Raises UserError if one cannot be opened, there is none, or two have one name.
        """
        self._sources = [Path(source) for source in sources]
        self._workers, self._options, self._say = workers, options, say
        self._models: dict[str, Model] = {}
        self._stamps: dict[str, Stamp] = {}
        self._lock = threading.Lock()
        for name, path in self._files(strict=True).items():
            self._load(name, path)
        if not self._models:
            raise UserError(f"{self._sources[0]} holds no .bhv files: `bhvit pack` makes them")

    @property
    def all(self) -> Mapping[str, Model]:
        """The models that are ready, by name."""
        return self._models

    def default(self, task: Task) -> Model | None:
        """Return the model meant where none is named.

        That is the only one, or the only one of its task.
        """
        models = list(self._models.values())
        able = models if len(models) == 1 else [model for model in models if model.session.task == task]
        return able[0] if len(able) == 1 else None

    def refresh(self) -> None:
        """Open what is new or replaced, and give up what is gone.

        A file that cannot be opened leaves the model that was there before. Requests that run keep the model that they
        began with.
        """
        with self._lock:
            try:
                files = self._files(strict=False)
            except OSError as error:
                self._say("models not looked for", level="error", reason=str(error))
                return
            for name, path in files.items():
                stamp = _stamp(path)
                if stamp is None or stamp == self._stamps.get(name):
                    continue
                try:
                    self._load(name, path)
                except UserError as error:
                    self._stamps[name] = stamp  # tried again when it changes
                    self._say("model not replaced", level="error", model=name, reason=str(error))
            for name in set(self._models) - set(files):
                self._models = {other: model for other, model in self._models.items() if other != name}
                self._stamps.pop(name, None)
                self._say("model removed", model=name)

    def _load(self, name: str, path: Path) -> None:
        begin = time.perf_counter()
        stamp = _stamp(path)
        options = self._options
        session = Session(path, threads=options.threads, isa=options.isa, max_memory=options.max_memory)
        model = Model(name, session, self._workers)
        self._models = {**self._models, name: model}  # replaced, never changed: requests read it without a lock
        if stamp is not None:
            self._stamps[name] = stamp
        seconds = round(time.perf_counter() - begin, 3)
        self._say("model ready", model=name, path=str(path), mapped=session.mapped, seconds=seconds)

    def _files(self, strict: bool) -> dict[str, Path]:
        """The files by the names of their models."""
        found: dict[str, Path] = {}
        for source in self._sources:
            source = bundled.find(source, ".bhv")
            inside = [source]
            if source.is_dir():
                inside = sorted(path for path in source.glob("*.bhv") if not is_side_file(path.name))
            for path in inside:
                if path.stem in found and strict:
                    raise UserError(f"{found[path.stem]} and {path} would both be the model {path.stem}: rename one")
                found.setdefault(path.stem, path)
        return {name: path for name, path in found.items() if strict or path.is_file()}


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
