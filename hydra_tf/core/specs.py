"""The grammar of specs: ``name:parameter=value,parameter=value``, in which a value may be a spec.

Round brackets keep a value together: a comma, an equals sign, a colon or a semicolon within them
belongs to the value, so that ``pgd:attack=(apgd:steps=5),epsilon=0.1`` has two parameters.
"""

from __future__ import annotations


def split_outside(text: str, separator: str) -> list[str]:
    """Return the parts of a text between separators that are outside of brackets.

    Args:
        text: a spec, or several.
        separator: one character.

    Raises:
        ValueError: for brackets that are not balanced.

    Example:
        >>> split_outside("attack=(apgd:steps=5,loss=ce),epsilon=0.1", ",")
        ['attack=(apgd:steps=5,loss=ce)', 'epsilon=0.1']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise ValueError(
            f'The brackets in "{text}" are not balanced; every "(" needs a ")" after it.'
        )
    return parts


def without_brackets(value: str) -> str:
    """Return a value without the pair of brackets around all of it.

    Args:
        value: text with balanced brackets.

    Example:
        >>> without_brackets("(apgd:steps=5)"), without_brackets("(a)/(b)")
        ('apgd:steps=5', '(a)/(b)')
    """
    value = value.strip()
    if not (value.startswith("(") and value.endswith(")")):
        return value
    inside = value[1:-1]
    try:
        split_outside(inside, ",")
    except ValueError:  # the first bracket is closed before the end
        return value
    return inside.strip()
