"""Telling other libraries of our models, whenever they are imported, before bhvit or after it.

`import bhvit` must load neither PyTorch nor timm nor transformers, and yet `timm.create_model("bhvit_small")` should
work once both are imported. What they have no way to discover, a finder on `sys.meta_path` brings: right after a
module of `_HOMES` has been executed, it imports the module of ours that registers there.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_AUTO = "transformers.models.auto"
_HOMES = {
    "timm": "bhvit.integrations.timm",
    f"{_AUTO}.configuration_auto": "bhvit.integrations.transformers.configuration",
    f"{_AUTO}.image_processing_auto": "bhvit.integrations.transformers.image_processing",
    f"{_AUTO}.modeling_auto": "bhvit.integrations.transformers.modeling",
}
"""Modules of others, and the module of ours that registers with each when it is imported.

Of transformers they are the three that hold its Auto classes: `import transformers` alone loads next to nothing, and
stays so. Each of ours needs only what the module it follows has loaded, so nothing is imported in a circle.
"""


def install() -> None:
    """Register with what is imported already, and with the rest when it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for theirs in _HOMES:
        if theirs in sys.modules:
            _register(theirs)


class _Finder:
    """A finder that makes our module follow those that other finders find."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _HOMES:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                _follow(spec)
                return spec
        return None


def _follow(spec: ModuleSpec) -> None:
    loader = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:  # an old kind of loader; bhvit.models can still be imported by hand
        return

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # type: ignore[union-attr]  # ours, of this one loader; the class's is behind it
        execute(module)
        _register(spec.name)

    try:
        loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]
    except AttributeError:
        return


def _register(theirs: str) -> None:
    ours = _HOMES[theirs]
    if ours in sys.modules:  # it is what imports theirs just now, and registers as it goes on
        return
    try:
        importlib.import_module(ours)
    except Exception as error:  # importing theirs must not fail because of us
        warnings.warn(f"bhvit could not register its models with {theirs}: {error}", RuntimeWarning, stacklevel=2)
