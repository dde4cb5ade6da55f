"""Decode pictures to upright PIL images of eight bits a channel.

They come as files, bytes, PIL images or arrays.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from .errors import UserError, counted, shown
from .system import environment_limit
from .text import without_middle

ImageLike: TypeAlias = "str | Path | bytes | Image.Image | npt.NDArray[np.uint8]"

Needed: TypeAlias = Callable[[int, int], tuple[int, int]]
"""Width and height of an upright picture -> the least width and height that are of use."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")
"""Formats that are decoded. Pillow knows others, which start programs (PostScript) or are no pictures."""
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .jp2 .j2k .avif "
    ".avifs .heic .heif".split()
)
"""Endings of files in a folder or archive that are taken for images; one that cannot be decoded is then named."""
MAX_PIXELS = environment_limit("BHVIT_MAX_PIXELS", 89_478_485)
"""Pixels of the largest picture that is decoded, by default Pillow's own limit; raised by BHVIT_MAX_PIXELS."""
if os.environ.get("BHVIT_MAX_PIXELS"):
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice that before it says how large a picture is
MAX_SCANS = 100
"""Scans of a JPEG: each costs time for all of its pixels, however few bytes it has. Encoders write ten or so."""
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""What ends the data of a scan: neither a stuffed byte nor a restart."""
_MAX_ICONS = 32
_TILE_WIDTH, _TILE_LENGTH = 322, 323
"""Tags of a TIFF: a tile is decoded as a whole, however little of it the picture shows."""
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders have been seen to raise on damaged files."""


def load_image(
    source: str | Path | bytes | IO[bytes],
    name: str | None = None,
    *,
    quick: bool = False,
    max_pixels: int | None = None,
    needed: Needed | None = None,
) -> Image.Image:
    """Decode an image file, and turn it upright as its EXIF orientation says.

    `source` is a path, the file's bytes, or an open file; `name` is what messages call it (default: the path). With
    `quick`, for checking, a JPEG is read to its end but only its coarsest pixels are computed. With `needed`, a JPEG is
    perhaps decoded at a half, quarter or eighth of its size, no smaller than `needed` asks for. Greyscale of more than
    eight bits becomes eight (`_eight_bits`), colours are in the order RGB.
    Raises UserError for whatever cannot be read: absent, damaged, of a format not in `FORMATS`, a pipe or device, of
    more than `max_pixels` pixels (default `MAX_PIXELS`), or with shades that mean nothing.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        name = name or f"an image of {counted(len(source), 'byte')}"
        source = io.BytesIO(source)
    elif not (isinstance(source, str | os.PathLike) or hasattr(source, "read")):
        raise UserError(
            "an image is a path, the bytes of an image file, a PIL image or a uint8 array (H, W, C), "
            f"not {shown(source)}"
        )
    elif isinstance(source, str | os.PathLike) and not os.fspath(source):
        raise UserError("the path of the image is empty")
    name = name or without_middle(str(source))
    try:
        if isinstance(source, str | os.PathLike) and Path(source).exists() and not Path(source).is_file():
            kind = "a folder" if Path(source).is_dir() else "a pipe or device"
            raise UserError(f"{name} is {kind}, not an image file")
        _check_icons(source, name, max_pixels)
        with _quiet_pillow(), Image.open(source, formats=known_formats()) as image:
            _check_pixels(image, name, max_pixels)
            jpeg = image.format in ("JPEG", "MPO")
            if jpeg:
                _check_scans(image, name)
            if quick:
                image.draft(None, (1, 1))
            elif needed is not None and jpeg:
                _draft(image, needed)
            image.load()
            return _decoded(image, name)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image{_unread_format(source)}") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} has too many pixels ({error}); BHVIT_MAX_PIXELS allows more") from None
    except _DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {name}: {error.strerror}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is damaged: {reason}") from None


def open_planes(
    image: ImageLike, channels: int, *, bgr: bool = False, needed: Needed | None = None
) -> list[Image.Image]:
    """Return an image as one PIL image, or as one for each channel.

    One and three channels are one image, in mode L or RGB. `image` is what `Preprocess` takes;
    with `bgr`, an array whose colours are in the order BGR or BGRA. Files are decoded by `load_image`. Raises UserError
    for what is no image, and for arrays that do not fit the channels.
    """
    if bgr:
        image = _swapped(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, channels)
    opened = _decoded(image) if isinstance(image, Image.Image) else load_image(image, needed=needed)
    return [convert(opened, channels)]


def _draft(image: Image.Image, needed: Needed) -> None:
    """Let a JPEG be decoded at the smallest scale that leaves what is needed of it."""
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # lies on its side
    except _DECODER_ERRORS:  # as `_upright` takes it
        turned = False
    width, height = image.size
    if turned:
        height, width = needed(height, width)
    else:
        width, height = needed(width, height)
    image.draft(None, (width, height))


def _check_icons(source: str | Path | IO[bytes], name: str, limit: int | None) -> None:
    """Check the pictures in an ICO file by their headers: Pillow decodes one of them while it opens the file."""
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(Path(source).open("rb")) if isinstance(source, str | os.PathLike) else source
        if not file.seekable():
            return  # Pillow reads it into memory first, and what comes from bhvit is not like that
        file.seek(0)
        head = file.read(6)
        if head[:4] == b"\0\0\1\0" and len(head) == 6:
            count = int.from_bytes(head[4:], "little")
            if count > _MAX_ICONS:
                raise UserError(f"{name} holds {count} icons, more than the {_MAX_ICONS} that are looked at")
            entries = file.read(16 * count)
            for offset in {int.from_bytes(entries[at + 12 : at + 16], "little") for at in range(0, len(entries), 16)}:
                file.seek(offset)
                _check_size(*_icon_size(file), name, limit)
        file.seek(0)


def _icon_size(file: IO[bytes]) -> tuple[int, int]:
    begin = file.tell()
    head = file.read(12)
    if head.startswith(b"\x89PNG"):
        file.seek(begin)
        with PngImagePlugin.PngImageFile(file) as image:  # nothing is decoded yet
            return image.size
    width, height = struct.unpack("<4xii", head)
    return abs(width), abs(height) // 2  # colours above a mask


def _check_size(width: int, height: int, name: str, limit: int | None) -> None:
    pixels = width * height
    if limit is not None and pixels > limit:
        raise UserError(f"{name} has {width}x{height} pixels, more than the {limit} that are taken")
    if pixels > MAX_PIXELS:
        raise UserError(
            f"{name} has {width}x{height} pixels, more than the {MAX_PIXELS} that are decoded: "
            f"set BHVIT_MAX_PIXELS={pixels} to allow it"
        )


def _check_pixels(image: Image.Image, name: str, limit: int | None) -> None:
    _check_size(image.width, image.height, name, limit)
    tags = getattr(image, "tag_v2", None) or {}
    tile = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if not all(isinstance(edge, int) for edge in tile) or tile[0] * tile[1] > MAX_PIXELS:
        raise UserError(
            f"{name} is a TIFF with tiles of {shown(tile[0])}x{shown(tile[1])} pixels, more than the {MAX_PIXELS} that "
            "are decoded"
        )


def _check_scans(image: Image.Image, name: str) -> None:
    """Raises UserError for a JPEG of more than `MAX_SCANS` scans, which would take minutes for few bytes."""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined]
    begin = file.tell()
    if not _one_scan(file):
        file.seek(0)
        count, last = 0, b""
        while chunk := file.read(1 << 20):
            count += (last + chunk).count(_SCAN)
            last = chunk[-1:]
        if count > MAX_SCANS:  # what follows the picture, such as a phone's film, may hold these bytes by chance
            file.seek(0)
            count = _scans(file.read())
        if count > MAX_SCANS:
            raise UserError(f"{name} is a JPEG of more than {MAX_SCANS} scans, which no camera or program writes")
    file.seek(begin)


def _one_scan(file: IO[bytes]) -> bool:
    """Whether a JPEG is sequential and its first scan has all components: decoders read no other then."""
    file.seek(2)
    components = 0
    while (head := file.read(4))[:1] == b"\xff" and len(head) == 4:
        kind, size = head[1], int.from_bytes(head[2:], "big") - 2
        if kind == 0xDA:
            return 0 < components == int.from_bytes(file.read(1), "big")
        if kind in (0xC0, 0xC1):
            components = int.from_bytes(file.read(6)[5:], "big")
            size -= 6
        elif not (0xE0 <= kind <= 0xEF or kind in (0xDB, 0xC4, 0xDD, 0xFE)):  # metadata, tables, restarts, comment
            return False
        if size < 0:
            return False
        file.seek(size, 1)
    return False


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG up to its end, or one more than `MAX_SCANS`."""
    count, at = 0, 2
    while count <= MAX_SCANS and (marker := _MARKER.search(data, at)):
        kind, at = data[marker.start() + 1], marker.end()
        if kind == 0xD9:
            break
        count += kind == 0xDA
        if kind not in (0x01, 0xD8):  # these have no length
            at += int.from_bytes(data[at : at + 2], "big")
    return count


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads, and HEIC where pillow-heif is installed."""
    Image.init()
    if importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in (*FORMATS, "HEIF") if name in Image.OPEN)


def _unread_format(source: str | Path | IO[bytes]) -> str:
    """Return what a message says of a file that no decoder takes.

    That is the package that reads it, or which formats are read.
    """
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                begin = file.read(12)
        else:
            source.seek(0)
            begin = source.read(12)
    except (OSError, ValueError):
        begin = b""
    if not begin:
        return " but an empty file: copy or download it again"
    if begin[4:8] == b"ftyp" and begin[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return " that Pillow reads, but a HEIC file: `pip install pillow-heif` makes it readable"
    return ", or is of a format that is not read (JPEG, PNG, WebP, GIF, BMP, TIFF and the like are)"


_filters_lock = threading.Lock()
_quiet_readers = 0
_quiet_filter: Any = None


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings, of damaged EXIF blocks and of large images: both decode, or raise.

    `warnings.catch_warnings` in several threads at once leaves whatever filters the last one found. So the first reader
    puts the filter in place, and the last one takes it away.
    """
    global _quiet_readers, _quiet_filter
    with _filters_lock:
        if _quiet_readers == 0:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _quiet_filter = warnings.filters[0]
        _quiet_readers += 1
    try:
        yield
    finally:
        with _filters_lock:
            _quiet_readers -= 1
            if _quiet_readers == 0:
                with contextlib.suppress(ValueError):  # somebody else has taken it away
                    warnings.filters.remove(_quiet_filter)  # type: ignore[attr-defined]


def _decoded(image: Image.Image, name: str = "the image") -> Image.Image:
    """Return the image upright, in eight bits a channel.

    Raises UserError if it is closed, cut short, or without a scale.
    """
    try:
        upright = _upright(image)
    except _DECODER_ERRORS as error:
        raise UserError(f"{name} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from None
    deep = upright.mode.startswith("I") or upright.mode == "F"
    return _eight_bits(upright, image.format, name) if deep else upright


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:  # an unreadable EXIF block says nothing about the pixels
        return image.copy()


def convert(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L or RGB, whatever mode it has."""
    if channels not in (1, 3):
        raise UserError(f"a model of {channels} channels takes uint8 arrays (H, W, {channels}), not image files")
    if image.width < 1 or image.height < 1:
        raise UserError("the image has no pixels")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's way without a warning; alpha goes next
    elif image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode == "LAB":
        image = image.convert("RGB") if channels == 3 else image.getchannel(0)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image, file_format: str | None, name: str) -> Image.Image:
    """Greyscale of more than eight bits as mode L.

    16-bit integers keep their high byte; Pillow holds them as I;16 or, of some files, as I. 32-bit integers keep their
    value if none needs more than eight bits, else the high byte of 16 bits if none needs more, else the highest of
    their four bytes. Floats are taken from 0 to 1, or if they go beyond that from 0 to 255.
    Raises UserError for pixels outside these ranges, which mean nothing without a scale.
    """
    values = np.asarray(image)
    if not values.size:
        raise UserError(f"{name} has no pixels")
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 255):
            raise UserError(f"{name} has floats from {low:g} to {high:g} as pixels: scale them to 0..1 or 0..255 first")
        scaled = values * 255 if high <= 1 else values
        return Image.fromarray(np.rint(scaled).astype(np.uint8))
    if low < 0:
        raise UserError(f"{name} has integers from {low} to {high} as pixels: no shade is negative; scale them first")
    small = image.mode == "I" and file_format != "PNG" and high < 1 << 8
    bits = 8 if small else 16 if high < 1 << 16 else 32
    return Image.fromarray((values.astype(np.int64) >> (bits - 8)).astype(np.uint8))


def _from_array(array: npt.NDArray[Any], channels: int) -> list[Image.Image]:
    """The array as one PIL image in the right mode, or as one image a channel."""
    if array.dtype != np.uint8:
        raise UserError(f"an image array must be uint8, not {array.dtype}; scale it to 0..255 first")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(f"an image array must be (H, W) or (H, W, C), not {array.shape}")
    array = np.ascontiguousarray(array)
    count = 1 if array.ndim == 2 else array.shape[2]
    if count == 1 and channels in (1, 3):
        return [convert(Image.fromarray(array.reshape(array.shape[:2])), channels)]
    if count in (3, 4) and channels in (1, 3):
        return [convert(Image.fromarray(array), channels)]
    if count == channels:
        return [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(np.atleast_3d(array), -1, 0)]
    raise UserError(f"an image array of {counted(count, 'channel')} cannot become the model's {channels}")


def _swapped(image: Any) -> npt.NDArray[np.uint8]:
    """The array with its colours from BGR or BGRA to RGB or RGBA."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise UserError("bgr is for arrays (H, W, 3) or (H, W, 4); files and PIL images say their order themselves")
    swapped: npt.NDArray[np.uint8] = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return swapped
