"""Generate the pages of the site that repeat facts of the code.

MkDocs calls this file as a hook (`on_config`, `on_files`). `pages()` alone needs no MkDocs:

    python docs/generate.py FOLDER      writes the generated pages below FOLDER, to look at
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference_pages as reference

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "bhvit"
MODULES = (
    "spec",
    "format",
    "data",
    "cost",
    "models",
    "train",
    "packing",
    "runtime",
    "verification",
    "timing",
    "report",
    "serve",
    "web",
    "integrations",
)
"""Packages whose modules have a reference page."""


def pages() -> dict[str, str]:
    """Return the generated pages: Markdown by path below docs/."""
    made = {
        "reference/python.md": python_page(),
        "reference/modules.md": modules_index(),
        "reference/cli.md": reference.cli_page(),
        "reference/models.md": reference.models_page(),
        "reference/settings.md": reference.settings_page(),
        "reference/overrides.md": reference.overrides_page(),
        "reference/c-api.md": reference.c_api_page(),
        "reference/ops.md": reference.ops_page(),
        "explanation/architecture.md": copied("DESIGN.md", "explanation/architecture.md"),
        "project/contributing.md": copied("CONTRIBUTING.md", "project/contributing.md"),
        "project/security.md": copied("SECURITY.md", "project/security.md"),
        "project/changelog.md": copied("CHANGELOG.md", "project/changelog.md"),
        "decisions/index.md": decisions_page(),
        "benchmarks/index.md": copied("benchmarks/README.md", "benchmarks/index.md"),
    }
    made |= {f"reference/modules/{name}.md": module_page(name) for name in MODULES}
    made["reference/modules/base.md"] = base_page()
    for source in sorted((ROOT / "benchmarks").glob("*/*.md")):
        uri = f"benchmarks/{source.parent.name}/{source.name}"
        made[uri] = copied(str(source.relative_to(ROOT)), uri)
    return made


def on_config(config: Any) -> Any:
    """Add the pages of folders to the navigation."""
    for section in config.nav:
        if "Reference" in section:
            at = next(i for i, item in enumerate(section["Reference"]) if "Python modules" in item)
            names = ["reference/modules.md", {"Base modules": "reference/modules/base.md"}]
            names += [{f"bhvit.{name}": f"reference/modules/{name}.md"} for name in MODULES]
            section["Reference"][at] = {"Python modules": names}
        if "Explanation" in section:
            at = next(i for i, item in enumerate(section["Explanation"]) if "Decisions" in item)
            found = [f"decisions/{path.name}" for path in decision_files()]
            section["Explanation"][at] = {"Decisions": ["decisions/index.md", *found]}
        if "Benchmarks" in section:
            section["Benchmarks"] = ["benchmarks/index.md", *benchmark_nav()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    for picture in sorted((ROOT / "benchmarks").glob("*/*.jpg")):
        uri = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that makes the browser fetch something from another server."""
    from mkdocs.exceptions import PluginError

    found = re.search(
        r'<(?:script|img|iframe|source)[^>]+src="https?:[^"]*"|<link[^>]+stylesheet[^>]+https?:[^>]*', output
    )
    if found:
        raise PluginError(f"{page.file.src_uri} loads from another server: {found.group(0)}")
    return output


def benchmark_nav() -> list[dict[str, list[str]]]:
    """Return the navigation of the benchmark pages: one entry for each folder."""
    folders: dict[str, list[str]] = {}
    for path in sorted((ROOT / "benchmarks").glob("*/*.md")):
        folders.setdefault(path.parent.name, []).append(f"benchmarks/{path.parent.name}/{path.name}")
    return [{name.capitalize(): paths} for name, paths in folders.items()]


def copied(source: str, uri: str) -> str:
    """Return the text of a file, with links made to fit the page `uri`."""
    text = (ROOT / source).read_text(encoding="utf-8")
    folder = Path(source).parent

    def link(match: re.Match[str]) -> str:
        label, target = match.group(1), match.group(2)
        if re.match(r"[a-z]+:|#", target):
            return match.group(0)
        path, hash_, anchor = target.partition("#")
        page = _page_of(os.path.normpath(folder / path))
        if page is None:
            return label if label.startswith("`") else f"{label} (`{os.path.normpath(folder / path)}`)"
        return f"[{label}]({os.path.relpath(page, Path(uri).parent)}{hash_}{anchor})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def _page_of(path: str) -> str | None:
    """Return the page or picture of the site that shows a file, if one does."""
    known = {
        "DESIGN.md": "explanation/architecture.md",
        "CONTRIBUTING.md": "project/contributing.md",
        "SECURITY.md": "project/security.md",
        "CHANGELOG.md": "project/changelog.md",
        "benchmarks/README.md": "benchmarks/index.md",
        "docs/decisions": "decisions/index.md",
    }
    if path in known:
        return known[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if re.fullmatch(r"benchmarks/\w+/\w+\.(md|jpg)", path) else None


def decision_files() -> list[Path]:
    """Return the decision records in order."""
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def decisions_page() -> str:
    """List the decision records with the first sentence of each decision."""
    rows = []
    for path in decision_files():
        text = path.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ")
        decision = " ".join(text.partition("**Decision.**")[2].split("\n\n")[0].split())
        rows.append(f"| [{title}]({path.name}) | {re.split(r'(?<=[.;]) ', decision)[0]} |")
    head = (
        "# Decisions\n\nLasting choices, each with its context and consequences.\n\n| Record | Decision |\n|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def python_page() -> str:
    """Document the public names of the package."""
    import bhvit

    parts = [
        "# Python API\n",
        "The public names of `bhvit`, loaded when first used: `import bhvit` loads neither PyTorch nor native code.",
        "Programs may rely on these names; everything else may change between versions.\n",
    ]
    for name in sorted(bhvit.__all__, key=str.lower):
        if not name.startswith("__"):
            value = getattr(bhvit, name)
            parts.append(f"::: {value.__module__}.{value.__qualname__}\n")
    return "\n".join(parts)


def modules_index() -> str:
    """List the packages that have a page."""
    rows = ["| [base modules](modules/base.md) | errors, bits, images, files: what every package uses |"]
    rows += [
        f"| [`bhvit.{name}`](modules/{name}.md) | {_summary(PACKAGE / name / '__init__.py')} |" for name in MODULES
    ]
    return "# Python modules\n\n| Package | Purpose |\n|---|---|\n" + "\n".join(rows) + "\n"


def module_page(name: str) -> str:
    """Document every module of a package."""
    parts = [f"# bhvit.{name}\n", _summary(PACKAGE / name / "__init__.py") + "\n"]
    for path in sorted((PACKAGE / name).rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if path.name == "__init__.py" or any(part.startswith("_") for part in path.parts[-2:]):
            continue
        parts.append(f"::: {module}\n    options:\n      show_root_full_path: true\n")
    return "\n".join(parts)


def base_page() -> str:
    """Document the modules next to the packages."""
    names = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))
    return "# Base modules\n\n" + "\n".join(
        f"::: bhvit.{name}\n    options:\n      show_root_full_path: true\n" for name in names
    )


def _summary(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def main() -> None:
    for uri, text in pages().items():
        path = Path(sys.argv[1]) / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
