"""Write a static site: the page, the npm package's files and the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .. import bundled
from ..errors import UserError, listed
from ..files import write_atomically
from ..format import file as bhv_file
from ..text import describe, size_text
from .examples import read_examples

PAGE = Path(__file__).parent / "page"
_PLACES = (Path(__file__).parent / "lib", Path(__file__).parents[3] / "web" / "dist")
"""Where the built npm package is: in an installed package, in a checkout."""
_HEADERS = "/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n"
"""Headers with which a page may use threads, in the file that Netlify and Cloudflare Pages read."""
_NEEDED = (
    "index.js",
    "worker.js",
    "thread.js",
    *(f"bhvit{kind}.wasm" for kind in ("", ".relaxed", ".threads", ".threads.relaxed")),
)


def find_library() -> Path:
    """Return the folder of the built npm package.

    Raises UserError where it has not been built.
    """
    for place in _PLACES:
        if all((place / name).is_file() for name in _NEEDED):
            return place
    raise UserError(
        "the engine for browsers is not built: run `make web` in a checkout (needs Emscripten and Node 20), then "
        "`bhvit web` there or in an installation made from it"
    )


def site_files(
    models: Sequence[str | Path], library: Path | None = None, examples: Path | None = None
) -> dict[str, bytes]:
    """Make the files of a site, by name, without the list of them.

    Raises UserError as `write_site` does.
    """
    library = library or find_library()
    contents = {name.name: name.read_bytes() for name in sorted(PAGE.iterdir())}
    contents |= {f"lib/{path.name}": path.read_bytes() for path in sorted(library.iterdir()) if _is_loaded(path)}
    entries = []
    for model in models:
        path = bundled.find(model, ".bhv")
        packed = bhv_file.read(path)
        name = f"models/{path.name}"
        if name in contents:
            raise UserError(f"two models are called {path.name}: rename one")
        contents[name] = path.read_bytes()
        entries.append(
            {
                "name": path.stem,
                "file": name,
                "size": size_text(len(contents[name])),
                "architecture": describe(packed.spec).splitlines()[0],
                "classes": listed(packed.class_names[:20]) + (", …" if len(packed.class_names) > 20 else ""),
            }
        )
    groups = []
    for number, group in enumerate(read_examples(examples) if examples else ()):
        files = {f"examples/{number}-{i}.jpg": picture for i, picture in enumerate(group.pictures)}
        contents |= files
        groups.append({"name": group.name, "files": list(files)})
    contents["examples.json"] = json.dumps(groups, ensure_ascii=False, indent=1).encode()
    contents["models.json"] = json.dumps(entries, ensure_ascii=False, indent=1).encode()
    return contents


def write_site(
    models: Sequence[str | Path], folder: Path, library: Path | None = None, examples: Path | None = None
) -> list[str]:
    """Write the site of some `.bhv` files into `folder`; return its files' names.

    The site works from any static host, makes no request to others, and works offline once loaded. `examples` is a
    folder of pictures for each class; the site shows the first few of each.
    Raises UserError for files that are no models, for two models of one name, and where the engine is not built.
    """
    contents = site_files(models, library, examples)
    names = [*contents, "files.json"]
    contents["files.json"] = json.dumps(["./", *names]).encode()
    contents["_headers"] = _HEADERS.encode()
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, data)
    return names


def _is_loaded(path: Path) -> bool:
    """Whether a page loads a file of the npm package, whose types it does not need."""
    return path.suffix in (".js", ".wasm")
