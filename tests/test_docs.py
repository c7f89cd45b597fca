"""Links of the pages, their navigation, their requirements, and the examples in them."""

import doctest
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
PACKAGES = ["attacks", "bounds", "data", "evaluation", "export", "interop", "layers", "models"]
PACKAGES += ["hydra_tf", "objectives", "sparsity", "training"]
each_page = pytest.mark.parametrize("path", PAGES, ids=NAMES)


def without_fences(text):
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    text = without_fences(text)
    found = []
    for title in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeated = found.count(anchor)
        found.append(f"{anchor}-{repeated}" if repeated else anchor)
    return found


def broken_links(path, text):
    """Return the relative links of a page to files or headings that do not exist."""
    broken = []
    prose = re.sub(r"`[^`\n]*`", "", without_fences(text))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        file = (path.parent / target).resolve()
        found = not target or file.exists()
        if found and anchor:
            found = anchor in anchors(file.read_text("utf-8") if target else text)
        if not found:
            broken.append(link)
    return broken


def pages_of_navigation(text):
    """Return the pages that the section nav of mkdocs.yml names."""
    navigation = text.partition("\nnav:\n")[2]
    return re.findall(r"^ +- [^:\n]+: (\S+\.md)$", navigation, re.MULTILINE)


def pins(name):
    """Return the pinned versions of each package in a file of requirements."""
    found = {}
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.M):
        found.setdefault(package, set()).add(version)
    return found


@each_page
def test_relative_links_lead_to_files_and_headings(path):
    assert broken_links(path, path.read_text("utf-8")) == []


def test_broken_links_are_found():
    text = "# A b\n[1](README.md) [2](gone.md) [3](#a-b) [4](#c) [5](README.md#gone) `[6](gone)`\n"
    assert broken_links(ROOT / "page.md", text) == ["gone.md", "#c", "README.md#gone"]


def test_the_navigation_names_every_page_once():
    pages = pages_of_navigation((ROOT / "mkdocs.yml").read_text("utf-8"))
    within = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    copied = {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    assert sorted(pages) == sorted(within | copied)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_package_has_a_reference(package):
    text = (DOCS / "reference" / f"{package}.md").read_text("utf-8")
    modules = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    expected = {"hydra_tf": ["hydra_tf"]}
    expected["interop"] = ["hydra_tf.interop.tfmot", "hydra_tf.interop.torch"]
    assert modules == expected.get(package, [f"hydra_tf.{package}"])
    for place in re.findall(r"<!-- parts: (\S+) -->", text):
        assert "register(" in "".join(
            file.read_text("utf-8")
            for file in ([ROOT / place] if place.endswith(".py") else (ROOT / place).glob("*.py"))
        )


def test_the_packages_of_the_pages_are_those_of_the_library():
    folders = {path.parent.name for path in (ROOT / "hydra_tf").glob("*/__init__.py")}
    assert folders - {"checks", "core"} == set(PACKAGES) - {"hydra_tf"}


def test_building_the_pages_changes_no_package_of_the_library():
    locked, needed = pins("requirements.lock"), pins("requirements-docs.txt")
    assert {"mkdocs", "mkdocs-material", "mkdocstrings"} <= set(needed)
    shared = set(locked) & set(needed)
    assert {name: needed[name] - locked[name] for name in shared} == {n: set() for n in shared}


def with_examples():
    """Return the pages that have examples."""
    return [path for path in PAGES if "```pycon" in path.read_text("utf-8")]


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("path", with_examples(), ids=lambda path: path.name)
def test_examples_of_pages_run(path):
    fences = re.findall(r"^```pycon\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest("\n\n".join(fences), {}, path.name, str(path), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(examples).failed == 0


NUMBER = re.compile(r"\**\d[\d,.]*( ?± ?[\d.]+)?( ?%)?\**")
COMMAND = re.compile(r"python -m \w|make [a-z]|python tutorials/")


def figures_without_command(text, with_title=True):
    """Return the headings of sections with a plot or a table of numbers, but without a command.

    The command may also stand in the text of a section around it, before its parts.

    Args:
        text: a page.
        with_title: whether the text under the title of the page counts for all of it.
    """
    sections, code = [], False
    for line in text.splitlines():
        code = not code if line.startswith("```") else code
        heading = None if code else re.match(r"(#+) (.*)", line)
        if heading:
            sections.append((len(heading[1]), heading[2], []))
        elif sections:
            sections[-1][2].append(line)
    around, found = [], []
    for level, title, lines in sections:
        around = [entry for entry in around if entry[0] < level]
        around.append((level, "\n".join(lines)))
        texts = [t for depth, t in around if depth > 1 or with_title or level == 1]
        if has_figures(lines) and not any(map(COMMAND.search, texts)):
            found.append(title)
    return found


def has_figures(lines):
    """Return whether lines have an image, or a row of a table with two or more numbers."""
    rows = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("|") and not after.startswith("|---")  # not the head of a table
    ]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return any(sum(bool(NUMBER.fullmatch(c)) for c in row) >= 2 for row in cells) or any(
        re.search(r"!\[.*?\]\(", line) for line in lines
    )


def test_figures_without_a_command_are_found():
    table = "| a | b |\n|---|---|\n| 1.5 | 2 ± 0.1 |\n"
    assert figures_without_command(f"# One\n\n{table}") == ["One"]
    assert figures_without_command(f"# One\n\n```sh\npython -m benchmarks.x\n```\n\n{table}") == []
    assert figures_without_command(f"# One\n\n{table}\n`make bench` makes it.\n") == []
    assert figures_without_command(f"# One\n\n`make bench`\n\n## Two\n\n{table}") == []
    assert figures_without_command(f"# One\n\n`make bench`\n\n# Two\n\n{table}") == ["Two"]
    assert figures_without_command("# One\n\n![plot](plot.png)\n") == ["One"]
    assert figures_without_command("# One\n\n| 0.1 | 0.2 |\n|---|---|\n| loss | x |\n") == []
    page = f"# One\n\n`make bench`\n\n## Two\n\n{table}"
    assert figures_without_command(page, with_title=False) == ["Two"]


@pytest.mark.parametrize(
    "path", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_each_figure_has_the_command_that_makes_it(path):
    with_title = path.name != "README.md"  # which begins with commands of all kinds
    assert figures_without_command(path.read_text("utf-8"), with_title) == []
