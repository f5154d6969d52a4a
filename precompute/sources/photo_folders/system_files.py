"""Files that operating systems and storage servers leave among photos; no owner means them."""

from __future__ import annotations

_NAMES = frozenset(
    {
        # Windows and macOS; what begins with a dot is left out by its first letter.
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"),
        *("$recycle.bin", "recycler", "found.000", "system volume information", "__macosx"),
        *("network trash folder", "temporary items"),
        # Storage servers (Synology, QNAP and others), and Linux file systems.
        *("@eadir", "@tmp", "@__thumb", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *(".ds_store", ".appledouble", ".directory", "lost+found", "lost.dir"),
    }
)


def is_system_file(name: str) -> bool:
    """Tell whether a file or folder of this name belongs to a system, not to an owner.

    Args:
        name: Without its folder. The thumbnails and bins of storage servers, the side files of
            macOS (``._photo.jpg``), ``Thumbs.db`` and their like.
    """
    return name.startswith("._") or name.casefold() in _NAMES
