"""A file's C2PA manifest (Content Credentials), read by the package c2pa-python.

The only file that knows that package. Read it where a hostile file can do no harm: see
workers.child.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tfds_ffpp.frames.found import Action, Credentials
from tfds_ffpp.frames.origin.boxes import holds_manifest
from tfds_ffpp.terminal.text import printable

PACKAGE = "c2pa-python"
MAX_WORD = 200  # characters of a word that are told
MAX_TOLD = 32  # actions, ingredients or problems that are told
MAX_BYTES = 16 << 20  # of a manifest as JSON
# That the signer is on no list is said by the state: no list is used here.
_UNLISTED = "signingCredential.untrusted"
# Nothing is fetched, whatever a file names.
_SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")


@cache
def available() -> bool:
    """Whether the package is there."""
    return find_spec("c2pa") is not None


def load() -> None:
    """Imports the package, where it is there, so that forks have it."""
    if available():
        import c2pa  # noqa: F401  # pyright: ignore[reportMissingImports]


def _kind_of(path: Path) -> str | None:
    """The media type of a file that may hold a manifest; None of others."""
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"RIFF"):
        return {b"AVI ": "video/avi", b"WEBP": "image/webp"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "image/heic" if head[8:12] in _HEIC else "video/mp4"
    begins = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif"}
    begins |= {b"II*\0": "tiff", b"MM\0*": "tiff"}
    kinds = (
        f"image/{kind}" for start, kind in begins.items() if head.startswith(start)
    )
    return next(kinds, None)


def read(path: Path) -> Credentials | None:
    """What the manifest of a file says; None of a format that has no place for one.

    Without the package: that an mp4 or mov file has one. Whatever is wrong with it is
    said and not raised.
    """
    if not available():
        cure = f"that needs the package {PACKAGE}; pip install 'fakedetect-jax[c2pa]'"
        return Credentials("not read", cure) if holds_manifest(path) else None
    import c2pa  # pyright: ignore[reportMissingImports]

    kind = _kind_of(path)
    if kind is None:
        return None
    reader_name = f"{PACKAGE} {metadata.version(PACKAGE)}"
    try:
        context = c2pa.Context.from_dict(_SETTINGS)
        with path.open("rb") as file, context:
            reader = c2pa.Reader.try_create(kind, file, context=context)
            if reader is None:
                return Credentials("none", reader=reader_name)
            with reader:
                text, state = reader.json(), reader.get_validation_state()
        if len(text) > MAX_BYTES:
            raise ValueError(f"it takes more than {MAX_BYTES:,} bytes")
        return _told(json.loads(text), state, reader_name)
    except Exception as error:  # whatever a forger may lead the package to
        reason = _word(str(error) or type(error).__name__)
        return Credentials("unreadable", reason, reader=reader_name)


def _told(store: Any, state: str | None, reader: str) -> Credentials:
    manifest = _get(store, "manifests", str(_get(store, "active_manifest"))) or {}
    problems = tuple(_problems(store))
    signature = _get(manifest, "signature_info") or {}
    valid = state in ("Valid", "Trusted") and not problems
    return Credentials(
        state="valid" if valid else "invalid",
        generator=_generator(manifest),
        title=_word(_get(manifest, "title")),
        signer=_word(_get(signature, "common_name")),
        issuer=_word(_get(signature, "issuer")),
        signed=_word(_get(signature, "time")),
        actions=tuple(_actions(manifest))[:MAX_TOLD],
        ingredients=tuple(
            _word(_get(one, "title")) for one in _list(manifest, "ingredients")
        )[:MAX_TOLD],
        problems=problems[:MAX_TOLD],
        reader=reader,
    )


def _problems(store: Any) -> Iterator[str]:
    for one in _list(store, "validation_status"):
        code = _word(_get(one, "code"))
        if code != _UNLISTED:
            yield code


def _generator(manifest: Any) -> str:
    made = _list(manifest, "claim_generator_info")
    words = (f"{_word(_get(m, 'name'))} {_word(_get(m, 'version'))}" for m in made)
    named = ", ".join(word.strip() for word in words)
    return (named or _word(_get(manifest, "claim_generator")))[:MAX_WORD]


def _actions(manifest: Any) -> Iterator[Action]:
    for assertion in _list(manifest, "assertions"):
        if not str(_get(assertion, "label")).startswith("c2pa.actions"):
            continue
        for action in _list(assertion, "data", "actions"):
            agent = _get(action, "softwareAgent")
            named = _get(agent, "name") if isinstance(agent, dict) else agent
            source = _word(_get(action, "digitalSourceType"))
            yield Action(
                action=_word(_get(action, "action")),
                when=_word(_get(action, "when")),
                agent=_word(named),
                source=source.rpartition("/")[2],
            )


def _get(value: Any, *names: str) -> Any:
    """What lies under these names; None where that is not there."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _list(value: Any, *names: str) -> list[Any]:
    found = _get(value, *names)
    return found if isinstance(found, list) else []


def _word(value: object) -> str:
    """Somebody else's text on one line, of bounded length; "" of None."""
    return "" if value is None else printable(str(value).strip())[:MAX_WORD]
