"""Parts of a report's page: tables, thumbnails, numbers as text.

All text from outside is escaped here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

THUMBNAIL = 96
"""Longer edge of a sample's picture in pixels."""


def picture(image: Image.Image) -> str:
    """A thumbnail as a data URL: small images enlarged without smoothing, large ones shrunk."""
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if max(image.size) < THUMBNAIL:
        factor = THUMBNAIL // max(image.size) or 1
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        kind, options = "png", {"optimize": 1}
    else:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        kind, options = "jpeg", {"quality": 80}
    return data_url(image, kind, **options)


def data_url(image: Image.Image, kind: str, **options: int) -> str:
    """An image within a page, encoded as `kind`, "png" or "jpeg"."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values as a table; "" without any."""
    if not rows:
        return ""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="scroll" tabindex="0"><table class="pairs">{body}</table></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a header."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
