"""What MkDocs does with these pages beyond its own means; `mkdocs.yml` names this file.

- Links that leave docs/ lead to copies of the files within the site.
- A fence ``math`` becomes MathML, which browsers show without JavaScript.
- A line ``<!-- parts: FOLDER_OR_FILE -->`` becomes the reference of the registered parts in there.
- Docstrings: roles such as ``:func:`` become links, ``Example:`` becomes a section of code.
"""

from __future__ import annotations

import ast
import html
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")  # of the repository's root
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_PARTS = re.compile(r"<!-- parts: (\S+) -->")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


def on_config(config: Any) -> Any:
    """Show fences of the language ``math`` as MathML."""
    fence = {"name": "math", "class": "math", "format": mathml}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def mathml(source: str, *_: Any, **__: Any) -> str:
    """Return a formula as a paragraph of MathML.

    Args:
        source: the formula in LaTeX.
    """
    return f"<div>{convert(source, display='block')}</div>"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, and the files that pages link to."""
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    for path in sorted((ROOT / "tutorials").glob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=path.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Redirect links that leave docs/, and list the registered parts."""
    folder = ROOT if page.file.src_uri in PAGES else ROOT / "docs" / page.file.src_uri / ".."

    def within_site(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if ":" in target:
            return match[0]
        path = (folder / target).resolve().relative_to(ROOT)
        inside = path.relative_to("docs") if path.parts[0] == "docs" else path
        up = "../" * (len(pathlib.PurePosixPath(page.file.src_uri).parts) - 1)
        return f"]({up}{inside.as_posix()}{anchor})"

    markdown = _LINK.sub(within_site, markdown)
    return _PARTS.sub(lambda match: "\n".join(_blocks(ROOT / match[1])), markdown)


def _blocks(place: pathlib.Path) -> Iterator[str]:
    """Yield a block of mkdocstrings for each registered part of a folder or file."""
    for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            names = list(_registered_names(node, path.stem))
            if isinstance(node, ast.ClassDef) and names:
                yield "\n".join(
                    [
                        f"### {', '.join(f'`{name}`' for name in sorted(names))}",
                        "",
                        f"::: {module}.{node.name}",
                        "    options: {heading_level: 4, show_root_heading: true, members: false}",
                        "",
                    ]
                )


def _registered_names(node: ast.stmt, file: str) -> Iterator[str]:
    """Yield the names under which a class is registered."""
    for call in getattr(node, "decorator_list", []):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "register"
        ):
            yield ast.literal_eval(call.args[0]) if call.args else file


class Docstrings(griffe.Extension):
    """Translates docstrings into what mkdocstrings reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translate roles and examples of one object."""
        if obj.docstring is None:
            return

        def link(match: re.Match[str]) -> str:
            name = match[1]
            shown = html.escape(name.lstrip("."))
            target = _full_name(obj, name)
            return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

        text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = _ROLE.sub(link, text)


def _full_name(obj: griffe.Object, name: str) -> str:
    """Return the dotted name of what a docstring names from within its module."""
    first, dot, rest = name.lstrip(".").partition(".")
    try:
        return obj.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        return name.lstrip(".")
