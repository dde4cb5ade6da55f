"""Registries of mixers, quantisers and activations defined outside the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import UserError
from .values import convert

F = TypeVar("F", bound=Callable[..., Any])


class Registry:
    """Registered values of one field of a spec: names and makers of modules."""

    def __init__(self, field: str, register: str) -> None:
        self.field = field
        self.hint = f"register a name of your own before using it (bhvit.models.{register})"
        self._makers: dict[str, Callable[..., Any]] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._makers

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._makers[name]

    def register(self, name: str, built_in: tuple[str, ...]) -> Callable[[F], F]:
        """Return a decorator that registers a maker, replacing one of the same name.

        Raises UserError if the name is one of the package's own or no identifier.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"{self.field}: a name of letters, digits and _ is needed, not {name!r}")
        if name in built_in:
            raise UserError(f"{self.field} {name!r} is the package's own: choose another name")

        def add(maker: F) -> F:
            self._makers[name] = maker
            return maker

        return add


MIXERS = Registry("mixer", "register_mixer")
ATTENTION_QUANTIZERS = Registry("attention", "register_attention_quantizer")
ACTIVATIONS = Registry("activation", "register_activation")
WEIGHT_QUANTIZERS = Registry("weight_quantizer", "register_weight_quantizer")
ACTIVATION_QUANTIZERS = Registry("activation_quantizer", "register_activation_quantizer")
REGISTRIES = {
    registry.field: registry
    for registry in (MIXERS, ATTENTION_QUANTIZERS, ACTIVATIONS, WEIGHT_QUANTIZERS, ACTIVATION_QUANTIZERS)
}


def convert_field(name: str, kind: Any, value: Any) -> Any:
    """Return `value` as the type of a field of a spec, or as registered name.

    `name` may be dotted. Raises UserError naming the field and what it takes.
    """
    registry = REGISTRIES.get(name.rpartition(".")[2])
    if registry is None:
        return convert(name, kind, value)
    if value in registry:
        return value
    try:
        return convert(name, kind, value)
    except UserError as error:
        raise UserError(f"{error}; {registry.hint}") from None
