"""Gradients by name: what the backward pass of a node gives for each argument of its forward pass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

Gradients = Mapping[str, Tensor | tuple[Tensor | None, ...] | None]
"""Gradients by the names of forward's arguments; a tuple for those that a `*name` takes. None where there is none."""


class Backward(Protocol):
    """The backward function of a node as autograd calls it."""

    def __call__(self, ctx: Any, *grad_outputs: Any) -> Any: ...


def by_name(forward: Callable[..., Any]) -> Callable[[Callable[..., Gradients]], Backward]:
    """Let a backward function return `Gradients`: they are put in the order of the arguments of `forward`.

    Arguments that are not named get no gradient. Raises KeyError for a name that `forward` does not have.
    """
    _, *parameters = inspect.signature(forward).parameters.values()  # the first is the context
    names = {parameter.name for parameter in parameters}

    def decorate(backward: Callable[..., Gradients]) -> Backward:
        @functools.wraps(backward)
        def in_order(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
            found = backward(ctx, *grad_outputs)
            if unknown := found.keys() - names:
                raise KeyError(f"no argument {', '.join(sorted(unknown))} among {', '.join(sorted(names))}")
            ordered: list[Any] = []
            for parameter in parameters:
                gradient = found.get(parameter.name)
                if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                    ordered += gradient if isinstance(gradient, tuple) else ()
                else:
                    ordered.append(gradient)
            return tuple(ordered)

        return in_order

    return decorate
