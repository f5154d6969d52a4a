"""What kind of picture some bytes are: by their content, never by a file's name."""

from __future__ import annotations

READABLE = "JPEG, PNG, WebP, AVIF, HEIC, TIFF, GIF or BMP"
DAMAGED = "is damaged and cannot be decoded"
TRUNCATED = "is truncated"
OUT_OF_MEMORY = "needs more memory to decode than it may have"
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS |= {b"mif1", b"msf1"}


class RefusedError(Exception):
    """A file turned away for a reason that is already known.

    Attributes:
        reason: Continues the file's name: "is truncated".
    """

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        self.reason = reason
        super().__init__(reason)


def kind_of(content: bytes) -> str:
    """Return the format by a file's first bytes: ``JPEG``, ``PNG``, ``WEBP`` and so on.

    Raises:
        RefusedError: It is none that is read here.
    """
    if not content:
        raise RefusedError("is empty (0 bytes)")
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        box = content[8 : max(16, min(int.from_bytes(content[:4], "big"), 256))]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    if content.startswith(b"PK\x03\x04"):
        raise RefusedError("is an archive (ZIP): unpack it and take the photos inside")
    if b"<svg" in content[:4096].lower():
        raise RefusedError(f"is an SVG drawing; a picture must be {READABLE}")
    raise RefusedError(f"is not an image in a format that is read here ({READABLE})")


def reason_of(error: Exception, content: bytes) -> str:
    """Return what is wrong with a file, by what its decoder raised."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "memory" in text:
        return OUT_OF_MEMORY
    if isinstance(error, EOFError) or "truncated" in text or "end of file" in text:
        return TRUNCATED
    return TRUNCATED if _ends_early(content) else DAMAGED


def _ends_early(content: bytes) -> bool:
    """Tell whether the container promises more bytes than there are."""
    if content[:4] == b"RIFF":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if content[4:8] == b"ftyp":
        at = 0
        while at + 8 <= len(content):
            size = int.from_bytes(content[at : at + 4], "big")
            if size == 1:
                size = int.from_bytes(content[at + 8 : at + 16], "big")
            if size < 8:
                return False
            at += size
        return at != len(content)
    return len(content) < 64
