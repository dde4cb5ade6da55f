"""A window with the picture that was just answered, where there is a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..errors import UserError

LARGEST = (1280, 720)
"""Width and height that a picture is shown with at most."""


class Window:
    """A window that shows one picture at a time.

    Raises UserError where no window can be opened.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError:
            raise UserError("--show needs Python's tkinter: install it (Debian: apt-get install python3-tk)") from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(f"--show needs a display, and there is none: {error}") from None
        self._root.title(title)
        self._picture = tkinter.Label(self._root)
        self._picture.pack()
        self._text = tkinter.Label(self._root, justify="left", font=("TkFixedFont", 14))
        self._text.pack(anchor="w")
        self._shown: Any = None  # Tk draws from it and does not keep it
        self.open = True
        self._root.protocol("WM_DELETE_WINDOW", self._closed)

    def show(self, picture: Any, lines: Sequence[str]) -> None:
        """Draw a picture (PIL, or uint8 (H, W, 3)) and the lines below it."""
        from PIL import ImageTk

        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image = image.convert("RGB")
        image.thumbnail(LARGEST)
        self._shown = ImageTk.PhotoImage(image, master=self._root)
        self._picture.configure(image=self._shown)
        self._text.configure(text="\n".join(lines))
        self._root.update()

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _closed(self) -> None:
        self.open = False

    def close(self) -> None:
        """Take the window away."""
        self._root.destroy()
