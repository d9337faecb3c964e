"""Images that users send: known by their bytes, measured by their headers, never decoded."""

import base64
import binascii
import re
import struct
from dataclasses import dataclass

from server.errors import Invalid, TooLarge, Unsupported

MAX_IMAGES = 8
MAX_BYTES = 10 * 1024 * 1024
MAX_TOTAL_BYTES = 15 * 1024 * 1024
MAX_SIDE = 8000

_DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Image:
    """An image whose bytes have been checked."""

    media_type: str
    data: bytes

    def data_url(self) -> str:
        """The image as a `data:` URL (RFC 2397)."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def read_all(sent: list[str]) -> list[Image]:
    """The images from `data:` URLs or bare base64.

    Raises `Invalid`, `Unsupported` or `TooLarge` that say which one is wrong.
    """
    if len(sent) > MAX_IMAGES:
        raise TooLarge(f"At most {MAX_IMAGES} images.", code="too_many_images")
    images = [_read(text, index) for index, text in enumerate(sent)]
    if sum(len(image.data) for image in images) > MAX_TOTAL_BYTES:
        raise TooLarge("The images have more than 15 MB together.", code="image_too_large")
    return images


def _read(text: str, index: int) -> Image:
    return check(_decode(text, index), index)


def check(data: bytes, index: int = 0) -> Image:
    """The image that the bytes are; the index is for what is raised, as by `read_all`."""
    if len(data) > MAX_BYTES:
        raise TooLarge(f"Image {index + 1} has more than 10 MB.", code="image_too_large")
    kind = _sniff(data)
    if kind is None:
        raise Unsupported(
            f"Image {index + 1} is not a PNG, JPEG, GIF or WebP.", code="unsupported_image"
        )
    size = _SIZES[kind](data)
    if size is None or min(size) < 1:
        raise _invalid(index, "is broken", "broken_image")
    if max(size) > MAX_SIDE:
        raise _invalid(index, f"has more than {MAX_SIDE} pixels a side", "image_too_wide")
    return Image(kind, data)


def _decode(text: str, index: int) -> bytes:
    if match := _DATA_URL.match(text):
        text = text[match.end() :]
    elif re.match(r"\s*[a-z][a-z0-9+.-]*:", text, re.IGNORECASE):
        # We fetch nothing that a user names, and pass no such name on.
        raise _invalid(
            index, "must be a data:image/...;base64, URL; others are not fetched", "remote_image"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(index, "is not base64", "bad_base64") from None


def _invalid(index: int, what: str, code: str) -> Invalid:
    return Invalid(f"Image {index + 1} {what}.", loc=("body", "images", index), code=code)


def _sniff(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


Size = tuple[int, int]


def _png_size(data: bytes) -> Size | None:
    """IHDR is the first chunk (ISO/IEC 15948, 11.2.2)."""
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _gif_size(data: bytes) -> Size | None:
    """The logical screen descriptor (GIF89a, 18)."""
    if len(data) < 10:
        return None
    width, height = struct.unpack("<HH", data[6:10])
    return width, height


def _jpeg_size(data: bytes) -> Size | None:
    """The first start-of-frame segment (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker in (0xD9, 0xDA):
            return None
        else:
            (length,) = struct.unpack(">H", data[at + 2 : at + 4])
            at += 2 + max(length, 2)
    return None


def _webp_size(data: bytes) -> Size | None:
    """The first chunk: VP8X, VP8L or VP8 (RFC 9649, 2.5 to 2.7)."""
    if len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


_SIZES = {
    "image/png": _png_size,
    "image/jpeg": _jpeg_size,
    "image/gif": _gif_size,
    "image/webp": _webp_size,
}
