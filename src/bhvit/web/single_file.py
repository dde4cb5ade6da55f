"""The page as one HTML file that needs no server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping

_MODULES = ("errors", "imports", "occlusion", "pixels", "native", "module", "threads", "runners", "index")
"""The npm package's scripts, each after those that it imports."""
_IMPORTS = re.compile(r'^(import\b[^;]*|export \{[^}]*\}( from "[^"]*")?);\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async |abstract )?(class|const|function|let)\b)", re.MULTILINE)
_POLICY = re.compile(r'(http-equiv="Content-Security-Policy" content=")[^"]*')


def single_file(site: Mapping[str, bytes]) -> str:
    """Return the files of a site, by name, as one HTML page.

    The model runs in the page's own thread, because a file has no worker. The engine is the one without relaxed SIMD,
    which every browser takes.
    """
    text = {name: data.decode() for name, data in site.items() if name.endswith((".js", ".html", ".css", ".svg"))}
    scripts = [*(f"lib/{name}.js" for name in _MODULES), "draw.js", "app.js"]
    script = "\n".join(_EXPORT.sub("", _IMPORTS.sub("", text[name])) for name in scripts)
    names = [name for name in site if name.startswith(("models/", "examples/"))]
    data = {name: site[name] for name in ("lib/bhvit.wasm", "models.json", "examples.json", *names)}
    embedded = json.dumps({name: base64.b64encode(value).decode() for name, value in data.items()})
    policy = (
        f"default-src 'none'; script-src {_hash(script)} 'wasm-unsafe-eval'; style-src {_hash(text['style.css'])}; "
        "img-src data: blob:; connect-src blob:; media-src blob:; base-uri 'none'; form-action 'none'"
    )
    icon = "data:image/svg+xml;base64," + base64.b64encode(site["icon.svg"]).decode()
    page = _POLICY.sub(lambda found: found[1] + policy, text["index.html"])
    scripts_of_page = (
        f'<script type="application/json" id="embedded">{embedded}</script>\n<script type="module">{script}</script>\n'
    )
    for old, new in (
        ('<link rel="icon" href="icon.svg">', f'<link rel="icon" href="{icon}">'),
        ('<link rel="stylesheet" href="style.css">', f"<style>{text['style.css']}</style>"),
        ('<script type="module" src="app.js"></script>\n', ""),
        ("</body>", f"{scripts_of_page}</body>"),
    ):
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    return page


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
