"""What the upload tab shows. Names and captions are a visitor's or a model's: always escaped."""

from __future__ import annotations

from collections.abc import Sequence

from core.records import Caption
from core.ui.parts.markup import escape
from core.ui.parts.results.sureness import sureness
from core.ui.uploads.routes import CSV, GALLERY, JSONL, download_address, thumbnail_address
from core.uploads.intake import Progress
from core.uploads.limits import MAX_CAPTION_CHARS, Notice, NoticeKind, Notices
from core.uploads.registry import Uploads
from core.uploads.session import UploadSession
from core.uploads.zero_gpu import RentedCaptioner

ACCEPTED = "image/*,.avif,.heic,.heif,.tif,.tiff,.dng,.cr2,.nef,.arw"
"""What a browser's dialog for photos offers; what can be read is found out from the content."""
PICTURES_WATCHED = 24
"""Pictures shown while a run is under way; the next ones begin a new page."""
_LEAST_SHOWN = 0.1
"""Photos a second under which no speed is told: it would read 0.0."""

FORGOTTEN = "Everything is forgotten: your files, captions, embeddings and indexes are deleted."


def introduction(uploads: Uploads) -> str:
    """Return what a visitor should know before sending photos."""
    limits = uploads.limits
    minutes = max(1, round(uploads.settings.upload_closed_s / 60))
    return (
        '<div class="tl-upload-intro"><p><strong>Search your own photos.</strong> Drop a folder or '
        f"files: {escape(uploads.captioner.spec.name)} writes a caption for each photo, both "
        "lenses index it, and you can search meanwhile.</p>"
        '<p class="tl-private">Only you can see them. They leave this server when you press '
        f"<em>Forget everything</em>, or {minutes} minute{'s' if minutes > 1 else ''} after you "
        "close this page.</p>"
        f'<p class="tl-note">At most {limits.files:,} photos, {limits.bytes / 1e6:,.0f} MB and '
        f"{limits.pixels / 1e6:,.0f} megapixels in all; {limits.decode.max_bytes / 1e6:,.0f} MB "
        f"and {limits.decode.max_pixels / 1e6:,.0f} megapixels each. JPEG, PNG, WebP, AVIF, HEIC, "
        "TIFF, GIF, BMP.</p></div>"
    )


def drop_zone() -> str:
    """Return the place to drop or choose photos; the page's script sends what it is given."""
    return (
        '<div class="tl-drop"><p><strong>Drop photos or a folder here</strong></p>'
        '<div><button type="button" class="tl-button" data-choose="files">Choose photos</button>'
        '<button type="button" class="tl-button" data-choose="folder">Choose a folder</button>'
        f'</div><input type="file" class="files" multiple accept="{ACCEPTED}" hidden '
        'aria-label="Photos"><input type="file" class="folder" webkitdirectory hidden '
        'aria-label="Folder"></div>'
    )


def nothing_view(sentence: str = "", kind: str = "nothing") -> str:
    """Return the state of a visitor without photos, with a sentence on what just happened.

    Args:
        sentence: What happened, or "".
        kind: ``start`` for a page that does not know yet whether there is an upload.
    """
    said = f'<p class="tl-said" role="status">{escape(sentence)}</p>' if sentence else ""
    return _framed(None, kind, said)


def trouble_view(sentence: str, session: UploadSession | None = None) -> str:
    """Return the state after something that could not be done, and why."""
    waiting = _waiting_line(session) if session else ""
    notices = notices_view(session.notices) if session else ""
    alert = f'<p class="tl-said bad" role="alert">{escape(sentence)}</p>'
    return _framed(session, "trouble", f"{alert}{waiting}{notices}")


def ready_view(uploads: Uploads, session: UploadSession) -> str:
    """Return what waits to be described and how long that will take, before it starts."""
    count = sum(file.is_picture for file in session.waiting)
    described = len(session.snapshot)
    there = f"{_photos(described)} can be searched. " if described else ""
    others = len(session.waiting) - count
    left_out = ""
    if others:
        left_out = f" {_files(others)} {_are(others)} no photo and will be left out."
    if not count:
        return _state(session, f"{there or 'No photo is here yet.'}{left_out}".strip(), "ready")
    captioner = uploads.captioner
    if isinstance(captioner, RentedCaptioner):
        full, rest = divmod(count, uploads.batch_size)
        seconds = full * captioner.rented_seconds(uploads.batch_size)
        seconds += captioner.rented_seconds(rest) if rest else 0
        cost = (
            f"A GPU is rented for at most {_duration(seconds)}, which counts towards your daily "
            "GPU minutes."
        )
    else:
        seconds = uploads.estimate_s(count)
        cost = f"That takes about {_duration(seconds)} here, with {captioner.spec.name}."
    said = f"{there}{_photos(count)} {_are(count)} ready to be described. {cost}{left_out}"
    return _state(session, said, "ready")


def running_view(session: UploadSession, progress: Progress, more: int = 0) -> str:
    """Return how far a run is: a bar, numbers, and the pictures as they come."""
    share = progress.settled / progress.total if progress.total else 1.0
    facts = [f"{progress.settled} of {_files(progress.total)}"]
    if progress.images_per_s >= _LEAST_SHOWN:
        facts.append(f"{progress.images_per_s:.1f} photos a second")
    if progress.left_s is not None and not progress.finished:
        facts.append(f"about {_duration(progress.left_s)} left")
    bar = (
        f'<div class="tl-progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}"><i style="width:{share:.1%}"></i></div>'
    )
    said = f'<p class="tl-said">Describing your photos: {" · ".join(facts)}</p>'
    return _framed(
        session,
        "running",
        f"{said}{bar}{_search_again(more)}{_watched(session, progress.decoded)}"
        f"{notices_view(session.notices, listed=False)}",
    )


def finished_view(session: UploadSession, progress: Progress, more: int = 0) -> str:
    """Return what a run did, what is left if it was stopped, and what came since a search.

    Args:
        session: The upload.
        progress: Of the run, at its end.
        more: Pictures that came since the visitor last searched.
    """
    quick = progress.images_per_s >= _LEAST_SHOWN
    speed = f" at {progress.images_per_s:.1f} a second" if quick else ""
    sentence = f"{_photos(progress.described)} described{speed}."
    waiting = len(session.waiting)
    if waiting:
        sentence = (
            f"Stopped. {sentence} {_photos(waiting)} still {'wait' if waiting > 1 else 'waits'}."
        )
    elif not len(session.snapshot):
        sentence = "None of these files is a photo that can be used."
    return _state(session, sentence, "finished", _search_again(more))


def given_up_view(session: UploadSession) -> str:
    """Return the state of a visitor who stopped before their run began."""
    count = len(session.waiting)
    return _state(
        session,
        f"Stopped before it began; the place in the queue is free again. {_photos(count)} still "
        f"{'wait' if count > 1 else 'waits'}.",
        "finished",
    )


def notices_view(notices: Notices, *, listed: bool = True) -> str:
    """Return the files that were refused, came twice, or need a remark, each with its reason.

    Args:
        notices: Of one upload.
        listed: Whether to name the files; else only how many there are.
    """
    groups: list[tuple[NoticeKind, str]] = [
        ("refused", "could not be used"),
        ("duplicate", "came twice"),
        ("note", "to know about"),
    ]
    parts = []
    for kind, title in groups:
        count = notices.count(kind)
        if not count:
            continue
        files = "1 file" if count == 1 else f"{count:,} files"
        if not listed:
            parts.append(f'<p class="tl-notices {kind}">{files} {title}</p>')
            continue
        found = [notice for notice in notices if notice.kind == kind]
        lines = _by_reason(found)
        if count > len(found):
            lines = f"<li>{count - len(found):,} earlier ones are not listed</li>{lines}"
        opened = " open" if kind == "refused" and count <= 5 else ""
        parts.append(
            f'<details class="tl-notices {kind}"{opened}><summary>{files} {title}</summary>'
            f"<ul>{lines}</ul></details>"
        )
    if notices.side_files:
        left_out = f"{notices.side_files:,} JSON file{'' if notices.side_files == 1 else 's'}"
        parts.append(
            f'<p class="tl-notices">{left_out}, as Google Takeout writes them beside photos, '
            f"{'was' if notices.side_files == 1 else 'were'} left out.</p>"
        )
    return "".join(parts)


def _by_reason(notices: Sequence[Notice]) -> str:
    """Return a line for each reason, with the names of all files that it holds for."""
    names: dict[str, list[str]] = {}
    for notice in notices:
        names.setdefault(notice.reason, []).append(f"<bdi>{escape(notice.file_name)}</bdi>")
    return "".join(
        f"<li>{first} {escape(reason)}{'; likewise ' if others else ''}{', '.join(others)}</li>"
        for reason, (first, *others) in names.items()
    )


def captions_table(session: UploadSession | None) -> str:
    """Return the described photos, each with its caption in a field and a button to remove it."""
    if session is None or not len(session.snapshot):
        return '<p class="tl-note">Captions will appear here, where you can correct them.</p>'
    rows = []
    for record in session.snapshot.records:
        name, caption = escape(record.file_name), escape(record.caption)
        source = escape(thumbnail_address(session, record.id))
        rows.append(
            f'<tr><td><img src="{source}" alt="" width="64" height="64" loading="lazy" '
            f'decoding="async"></td><td class="tl-file-name"><bdi>{name}</bdi></td>'
            f'<td><input type="text" data-caption="{record.id}" value="{caption}" '
            f'maxlength="{MAX_CAPTION_CHARS}" aria-label="Caption of {name}" dir="auto" '
            f'aria-describedby="sure-{record.id}"><span id="sure-{record.id}">'
            f"{sureness(record.captions[0])}</span></td>"
            f'<td><button type="button" data-remove="{record.id}" aria-label="Remove {name}">'
            "Remove</button></td></tr>"
        )
    return (
        '<table class="tl-captions-table"><thead><tr><th scope="col"><span class="tl-sr">Photo'
        '</span></th><th scope="col">File</th><th scope="col">Caption</th><th scope="col">'
        f'<span class="tl-sr">Remove</span></th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def downloads_view(session: UploadSession | None) -> str:
    """Return links to the downloads, once there is something to download."""
    if session is None or not len(session.snapshot):
        return ""
    links = "".join(
        f'<a class="tl-download" href="{escape(download_address(session, name))}" '
        f'download="{name}">{title}</a>'
        for name, title in (
            (CSV, "captions.csv"),
            (JSONL, "captions.jsonl"),
            (GALLERY, "gallery.zip"),
        )
    )
    return (
        f'<div class="tl-downloads"><span>Take it with you</span>{links}<p class="tl-note">The zip '
        "is a gallery: unpack it, then <code>python app.py --gallery my-photos</code>. In the CSV, "
        "a text that a spreadsheet would run as a formula begins with an apostrophe; the JSON "
        "lines have every text as it is.</p></div>"
    )


def _state(session: UploadSession, said: str, kind: str, onward: str = "") -> str:
    line = f'<p class="tl-said" role="status">{escape(said)}</p>'
    return _framed(session, kind, f"{line}{onward}{notices_view(session.notices)}")


def _framed(session: UploadSession | None, kind: str, inner: str) -> str:
    """Return a state with what the page's script must know of it."""
    data = f'data-kind="{kind}"'
    if session is not None and not session.ended:
        data += (
            f' data-waiting="{len(session.waiting)}" data-photos="{len(session.snapshot)}" '
            f'data-keep="{escape(session.keep_token)}"'
        )
    return f'<div class="tl-upload-state is-{kind}" {data}>{inner}</div>'


def _search_again(more: int) -> str:
    if more <= 0:
        return ""
    return (
        f'<p><button type="button" class="tl-chip" data-search-again>{more:,} more '
        f"photo{'' if more == 1 else 's'}: search again</button></p>"
    )


def _watched(session: UploadSession, decoded: Sequence[str]) -> str:
    """Return a page of the newest pictures; an order that stays spares reloading them."""
    captions = {record.id: record.captions[0] for record in session.snapshot.records}
    ids = [*captions, *(image_id for image_id in decoded if image_id not in captions)]
    if not ids:
        return ""
    first = (len(ids) - 1) // PICTURES_WATCHED * PICTURES_WATCHED
    figures = "".join(
        f'<figure class="{"" if image_id in captions else "is-waiting"}"><img '
        f'src="{escape(thumbnail_address(session, image_id))}" alt="" width="96" height="96">'
        f"{_said(captions.get(image_id))}</figure>"
        for image_id in ids[first : first + PICTURES_WATCHED]
    )
    return f'<div class="tl-watched">{figures}</div>'


def _said(caption: Caption | None) -> str:
    if caption is None:
        return "<figcaption>…</figcaption>"
    return f"<figcaption>{escape(caption.text)}</figcaption>{sureness(caption)}"


def _waiting_line(session: UploadSession) -> str:
    count = len(session.waiting)
    return f"<p>{_photos(count)} {_are(count)} waiting.</p>" if count else ""


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count:,} photos"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes"
