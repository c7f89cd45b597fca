"""The method `call` of a layer that wraps another one, with the arguments of that layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def masked_call(call: Callable[..., Any], takes_training: bool) -> Callable[..., Any]:
    """Return a method that calls `call_masked`, with the signature of another layer's `call`.

    Args:
        call: the method `call` of the other layer.
        takes_training: whether to add the argument `training` if it is missing.

    Example:
        >>> def call(inputs, mask=None):
        ...     return inputs
        >>> print(inspect.signature(masked_call(call, takes_training=True)))
        (self, /, inputs, mask=None, *, training=None)
    """

    def masked(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call_masked(*args, **kwargs)

    signature = inspect.signature(call)
    parameters = dict(signature.parameters)
    if takes_training and "training" not in parameters:
        added = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
        rest = [p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        parameters = {p.name: p for p in parameters.values() if p not in rest}
        parameters |= {"training": added, **{p.name: p for p in rest}}
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    new = signature.replace(parameters=[own, *parameters.values()])
    masked.__signature__ = new  # type: ignore[attr-defined]
    return masked
