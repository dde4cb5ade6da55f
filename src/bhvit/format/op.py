"""One op of a program: kind, attributes and options, checked by its schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..bits import LANES, words_for
from ..errors import FormatError
from ..spec.limits import LIMITS
from .expressions import evaluate
from .schema import OPTIONS, SCHEMAS, Dims, Kind, OpSchema, TensorRule, require


@dataclasses.dataclass(frozen=True)
class Op:
    """One op: its kind, the name that prefixes its tensors, its attributes and its options."""

    kind: str
    name: str
    attributes: Dims
    options: Mapping[str, str]
    """Those that differ from their default."""
    schema: OpSchema = dataclasses.field(repr=False, compare=False)
    reads: tuple[str, ...] | None = None
    """The ops whose values it reads, by name; None for the op before it alone."""

    def option(self, name: str) -> str:
        """The value of an option."""
        return self.options.get(name, OPTIONS[name][0])

    def has(self, rule: TensorRule) -> bool:
        """Whether this op has the tensor of a rule."""
        for condition in rule.when.split():
            attribute, above, _ = condition.partition(">")
            option, _, value = condition.partition("=")
            if not (self.attributes[attribute] > 1 if above else self.option(option) == value):
                return False
        return True

    def shapes(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Kind and shape of every tensor, by its name without the op's prefix."""
        shapes: dict[str, tuple[Kind, tuple[int, ...]]] = {}
        for name, rule in self.schema.tensors.items():
            if not self.has(rule):
                continue
            shape = tuple(evaluate(size, self.attributes) for size in rule.shape)
            if not rule.weights:
                shapes[name] = ("float", shape)
            elif self.option("weights") == "float":
                shapes[name] = ("float", (*shape, LANES))
            else:
                shapes[name] = ("bits", (*shape[:-1], words_for(shape[-1]), LANES))
        return shapes

    def to_json(self) -> dict[str, Any]:
        a, defaults = self.attributes, self.schema.defaults
        given = {key: value for key, value in a.items() if key not in defaults or value != a[defaults[key]]}
        reads = {} if self.reads is None else {"reads": list(self.reads)}
        return {"op": self.kind, "name": self.name, **reads, **given, **self.options}

    @classmethod
    def from_json(cls, fields: Any) -> Op:
        """Return the op that `to_json` wrote.

        Raises FormatError naming the op and what is wrong with it.
        """
        require(isinstance(fields, dict) and isinstance(fields.get("name"), str), "an op is not an object with a name")
        rest = dict(fields)
        kind, name = rest.pop("op", None), rest.pop("name")
        known = isinstance(kind, str) and kind in SCHEMAS
        require(known, f"op {name}: unknown kind {kind!r}; a newer bhvit may know it")
        schema = SCHEMAS[kind]
        reads: Any = None
        if "reads" in rest:
            reads = rest.pop("reads")
            listed = isinstance(reads, list) and all(isinstance(value, str) for value in reads)
            require(listed, f"op {name}: reads is not a list of names")
            reads = tuple(reads)
        takes = schema.attributes
        options = {key: rest.pop(key) for key in schema.options if key in rest}
        for key, value in options.items():
            require(value in OPTIONS[key][1:], f"op {name}: {key} {value!r} is not known; a newer bhvit may know it")
        for key, other in schema.defaults.items():
            require(
                key not in rest or rest[key] != rest.get(other), f"op {name}: {key} is left out where it equals {other}"
            )
            if key not in rest and other in rest:
                rest[key] = rest[other]
        require(set(rest) == set(takes), f"op {name}: {kind} takes {', '.join(takes)}, not {', '.join(map(str, rest))}")
        for key, value in rest.items():
            require(
                type(value) is int and 1 <= value <= LIMITS[key],
                f"op {name}: {key} must be 1 to {LIMITS[key]}, not {value!r}",
            )
        try:
            schema.check(rest)
        except FormatError as error:
            raise FormatError(f"op {name}: {error}") from None
        return cls(kind, name, rest, options, schema, reads)

    def output(self) -> tuple[int, int, int]:
        """(H, W, C) of what this op writes; (1, 1, classes) of logits, (H, W, classes) of logits of pixels."""
        return self._grid(self.schema.output)

    def inputs(self) -> list[tuple[int, int, int]]:
        """(H, W, C) of each value that this op reads."""
        return [self._grid(sizes) for sizes in self.schema.inputs]

    def _grid(self, sizes: tuple[str, str, str]) -> tuple[int, int, int]:
        height, width, channels = (evaluate(size, self.attributes) for size in sizes)
        return height, width, channels
