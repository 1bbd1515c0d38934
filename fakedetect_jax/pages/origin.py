"""What a file says of itself, in words for a page: its container, its C2PA manifest."""

from collections.abc import Iterator

from fakedetect_jax.pages.formats import clock
from tfds_ffpp.frames.found import Action, ContainerFacts, Credentials, Edit, FileFacts

Row = tuple[str, str]  # what it is, and what is said


def container_rows(file: FileFacts | None) -> list[Row]:
    """What the container says; nothing of a picture."""
    if file is None or file.container is None:
        return []
    return [row for row in _of_container(file, file.container) if row[1]]


def _of_container(file: FileFacts, said: ContainerFacts) -> Iterator[Row]:
    brands = f" ({', '.join(said.brands)})" if said.brands else ""
    yield "Container", said.format + brands
    yield "Written by", ", ".join(said.encoder)
    yield "Made", said.created and f"{said.created}, by its own words"
    yield "Length", clock(said.seconds)
    yield "Pictures", " ".join((file.codec, said.profile)).strip()
    yield "Bit rate", _rates(file.bit_rate, said.video_bit_rate)
    yield "Sound", ", ".join(said.sound) or "none"
    edits = said.edits
    yield "Edit list", "; ".join(map(_edit, edits)) if len(edits) > 1 else ""


def _rates(whole: int, pictures: int) -> str:
    of_pictures = f", of the pictures {pictures / 1e6:.2f}" if pictures else ""
    return f"{whole / 1e6:.2f} Mbit/s{of_pictures}" if whole else ""


def _edit(edit: Edit) -> str:
    where = "nothing" if edit.source is None else f"from {edit.source:.2f} s"
    return f"{edit.kind} {edit.track + 1}: {edit.seconds:.2f} s {where}"


def manifest_rows(file: FileFacts | None) -> list[Row]:
    """What the manifest says, and whether it holds; one row where there is none."""
    said = file.credentials if file else None
    if said is None:
        return [("C2PA manifest", "nobody looked for one")]
    return [row for row in _of_manifest(said) if row[1]]


_STATES = {
    "none": "none",
    "valid": "valid: nothing was changed since it was signed",
    "invalid": "it does not hold, so its words may be anybody's",
    "unreadable": "it could not be read",
    "not read": "there is one, and it was not read",
}


def _of_manifest(said: Credentials) -> Iterator[Row]:
    why = said.reason or ", ".join(said.problems)
    state = _STATES.get(said.state, said.state)
    yield "C2PA manifest", f"{state} ({why})" if why else state
    signer = f"{said.signer} ({said.issuer})" if said.issuer else said.signer
    yield "Signed by", signer and f"{signer}, whom no list here vouches for"
    yield "Signed on", said.signed
    yield "Claimed by", said.generator and f"the program {said.generator}"
    yield "Its title", said.title
    yield "What was done", "; ".join(map(_action, said.actions))
    yield "Made of", ", ".join(said.ingredients)


def _action(action: Action) -> str:
    more = ", ".join(filter(None, (action.source, action.agent, action.when)))
    name = action.action.removeprefix("c2pa.")
    return f"{name} ({more})" if more else name
