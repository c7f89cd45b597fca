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
