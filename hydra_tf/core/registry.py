"""Registries of named parts with parameters: ``"trades:beta=6,epsilon=8/255"`` becomes an object.

Each kind of part (objective, attack, model, data set, allocation and so on) has one
:class:`Registry`. A part is a frozen dataclass whose fields are its parameters; by default it is
registered under the name of its file. Neither this file nor the import of a part's file loads
TensorFlow, so that a command line can be checked without that cost.
"""

from __future__ import annotations

import dataclasses
import difflib
import fractions
import importlib
import numbers
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from hydra_tf.core.specs import split_outside, without_brackets

T = TypeVar("T")
C = TypeVar("C", bound=type)


def unknown(kind: str, name: str, known: typing.Iterable[str]) -> str:
    """Return the error sentence for an unknown name: the nearest known name, then all of them.

    >>> unknown("norm", "l3", ["l2", "linf"])
    'Unknown norm "l3"; did you mean "l2"? Known: l2, linf.'
    >>> unknown("parameter", "eps", ["epsilon", "steps"])
    'Unknown parameter "eps"; did you mean "epsilon"? Known: epsilon, steps.'
    """
    known = sorted(known)
    completions = [candidate for candidate in known if name and candidate.startswith(name)]
    near = completions or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    return f'Unknown {kind} "{name}"{hint} Known: {", ".join(known) or "none"}.'


def parse_value(text: str) -> Any:
    """Return the number, fraction, truth value or None that `text` represents, or `text` itself.

    >>> parse_value("1/4"), parse_value("10"), parse_value("true"), parse_value("linf")
    (0.25, 10, True, 'linf')
    """
    word = text.strip()
    named = {"true": True, "false": False, "none": None}
    if word.lower() in named:
        return named[word.lower()]
    for convert in (int, float, lambda value: float(fractions.Fraction(value))):
        try:
            return convert(word)
        except (ValueError, ZeroDivisionError):
            continue
    return word


def _fits(value: Any, hint: Any) -> bool:
    """Return whether `value` is of the annotated type; a whole number counts as a float."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in typing.get_args(hint))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    names |= {type(None): "none", Mapping: "a mapping"}
    hint = typing.get_origin(hint) or hint
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, and any other value unchanged."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _fields(part: Any) -> dict[str, Any]:
    """Return the parameters of a part; one that is a part itself is given by its config."""
    fields = (field.name for field in dataclasses.fields(part) if field.init)
    return {name: _as_config(getattr(part, name)) for name in fields}


def _as_config(value: Any) -> Any:
    registry = _REGISTRIES.get(type(value))
    if registry is not None:
        return registry.config(value)
    if dataclasses.is_dataclass(value):
        raise TypeError(
            f"{value!r} is of a class that is not registered, so it cannot be written to a config."
        )
    return value


class Registry(Generic[T]):
    """The parts of one kind, defined by the modules of one package.

    Args:
        kind: name of such a part in messages, such as ``"objective"``.
        package: dotted name of the package whose modules define the parts.

    Example:
        >>> from hydra_tf import objectives
        >>> objectives.build("trades:beta=3,epsilon=8/255").beta
        3
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._parts: dict[str, tuple[type, dict[str, Any]]] = {}
        self._complete = False

    def register(self, name: str | None = None, **preset: Any) -> Callable[[C], C]:
        """Return a class decorator that registers a dataclass under `name`.

        Args:
            name: the registered name; the name of the defining file when left out.
            **preset: values of parameters under this name, as for the members of a family of
                models.
        """

        def decorate(cls: C) -> C:
            key = name or cls.__module__.rpartition(".")[2]
            other = self._parts.get(key, (cls, preset))[0]
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f'The {self.kind} "{key}" is already registered by {other!r}.')
            self._parts[key] = (cls, preset)
            _REGISTRIES[cls] = self
            return cls

        return decorate

    def names(self, base: type = object) -> tuple[str, ...]:
        """Return the registered names, sorted.

        Args:
            base: only the names of its subclasses.
        """
        if not self._complete:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._complete = True
        return tuple(
            sorted(name for name, (cls, _) in self._parts.items() if issubclass(cls, base))
        )

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the parameter names of a part with their type annotations.

        Raises:
            ValueError: for an unknown name; the message lists the known ones.
        """
        if name not in self.names():
            raise ValueError(unknown(self.kind, name, self.names()))
        cls = self._parts[name][0]
        hints = typing.get_type_hints(cls)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}

    def parse(self, spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Split a spec into the part's name and its parameters.

        Args:
            spec: ``"name"``, ``"name:key=value,key=value"``, or a mapping with the key
                ``"name"`` and a key for each parameter. A value in brackets may contain commas,
                as one that is a spec itself does: ``"pgd:attack=(apgd:steps=5,restarts=2)"``.
                Brackets in a string must be balanced, and the outer pair is not part of the value.

        Raises:
            ValueError: when the spec is not of that form.
        """
        name, params = self._split(spec)
        if isinstance(spec, str):
            params = {key: parse_value(text) for key, text in params.items()}
        return name, params

    def _split(self, spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Split a spec like :meth:`parse`, but do not convert the values in a string."""
        if isinstance(spec, Mapping):
            params = dict(spec)
            if not isinstance(params.get("name"), str):
                raise ValueError(f'The {self.kind} given as a mapping needs the key "name".')
            return params.pop("name"), params
        name, *tail = split_outside(spec, ":")
        params = {}
        for pair in filter(None, map(str.strip, split_outside(":".join(tail), ","))):
            key, equals, value = pair.partition("=")
            value = without_brackets(value)
            if not equals or not value:
                raise ValueError(
                    f'"{pair}" in the {self.kind} "{spec}" is not of the form parameter=value.'
                )
            if key.strip() in params:
                raise ValueError(f'"{key.strip()}" is given twice in the {self.kind} "{spec}".')
            params[key.strip()] = value
        return name.strip(), params

    def build(self, spec: Any, **defaults: Any) -> T:
        """Return the part that `spec` names.

        Args:
            spec: a string or mapping (see :meth:`parse`); an instance or callable is
                returned unchanged.
            **defaults: values for parameters that the spec leaves out; those that the part does
                not have are ignored.

        Raises:
            ValueError: unknown name or parameter (the nearest known one is suggested), or
                an invalid value.
            TypeError: a spec or a parameter value of the wrong type.
        """
        if not isinstance(spec, str | Mapping):
            if isinstance(spec, type) or not (callable(spec) or self._is_registered(spec)):
                raise TypeError(
                    f"The {self.kind} must be a name, a mapping, an instance or a callable, "
                    f"not {spec!r}."
                )
            return typing.cast(T, spec)
        name, params = self._split(spec)
        hints = self.parameters(name)
        cls, preset = self._parts[name]
        for key, raw in params.items():
            if key not in hints:
                sentence = unknown(f'parameter of {self.kind} "{name}":', key, hints)
                raise ValueError(sentence)
            value = parse_value(raw) if isinstance(spec, str) else _plain(raw)
            # parse_value turns "2024" into a number, but a text parameter takes the text.
            params[key] = value = value if _fits(value, hints[key]) else raw
            if not _fits(value, hints[key]):
                raise TypeError(
                    f'Parameter "{key}" of {self.kind} "{name}" must be '
                    f"{_type_name(hints[key])}, not {value!r}."
                )
        fallback = {key: value for key, value in defaults.items() if key in hints}
        return typing.cast(T, cls(**{**fallback, **preset, **params}))

    def _is_registered(self, part: object) -> bool:
        """Return whether the class of an object is one of this registry."""
        self.names()
        return any(type(part) is cls for cls, _ in self._parts.values())

    def config(self, part: Any) -> dict[str, Any]:
        """Return the mapping that :meth:`build` turns into an equal part.

        Raises:
            TypeError: when the part is not of this registry, such as a plain callable.
        """
        self.names()
        for name, (cls, preset) in self._parts.items():
            if type(part) is cls and all(getattr(part, k) == v for k, v in preset.items()):
                return {"name": name, **_fields(part)}
        # A preset may have been overridden; the fields are complete for every name of the class.
        for name, (cls, _) in self._parts.items():
            if type(part) is cls:
                return {"name": name, **_fields(part)}
        raise TypeError(
            f"{part!r} is not a registered {self.kind}, so it cannot be written to a config."
        )


# The registry of each registered class, for parts that are parameters of others.
_REGISTRIES: dict[type, Registry[Any]] = {}
