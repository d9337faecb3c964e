"""Small images of every kind, made by hand, of any size that their headers can claim."""

import base64
import struct
import zlib


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 1, height: int = 1) -> bytes:
    """A grey PNG; only small ones have all their pixels."""
    pixels = (b"\0" + b"\x80" * width) * height if width * height <= 10_000 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(pixels))
        + _chunk(b"IEND", b"")
    )


def gif(width: int = 1, height: int = 1) -> bytes:
    """A GIF with one black pixel."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;"
    )


def jpeg(width: int = 1, height: int = 1) -> bytes:
    """A grey baseline JPEG (ITU-T T.81) with an application segment before the frame."""
    tables = b"\xff\xdb\0\x43\0" + b"\x01" * 64
    frame = b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", height, width) + b"\x01\x01\x11\0"
    codes = b"\xff\xc4\0\x14\0\x01" + b"\0" * 15 + b"\0"
    codes += b"\xff\xc4\0\x14\x10\x01" + b"\0" * 15 + b"\0"
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x3f"
    app = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    return b"\xff\xd8" + app + tables + frame + codes + scan + b"\xff\xd9"


def webp(width: int = 1, height: int = 1) -> bytes:
    """A lossy WebP's header with its first bytes (RFC 9649, 2.5)."""
    frame = b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + b"\x0e\xc0\xfe\x25"
    data = b"VP8 " + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def webp_lossless(width: int = 1, height: int = 1) -> bytes:
    """A lossless WebP's header (RFC 9649, 2.6)."""
    bits = (width - 1) | (height - 1) << 14
    frame = b"\x2f" + struct.pack("<I", bits) + b"\x07\x10\x11\x11\x88\x88\x08"
    data = b"VP8L" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def webp_extended(width: int = 1, height: int = 1) -> bytes:
    """An extended WebP's header (RFC 9649, 2.7)."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


KINDS = {
    "image/png": [png],
    "image/gif": [gif],
    "image/jpeg": [jpeg],
    "image/webp": [webp, webp_lossless, webp_extended],
}


def url(data: bytes, kind: str = "image/png") -> str:
    """The bytes as a `data:` URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_url(width: int = 1, height: int = 1) -> str:
    """A PNG as a `data:` URL."""
    return url(png(width, height))
