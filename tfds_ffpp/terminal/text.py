"""Names that other people chose, made safe for a terminal, Markdown or a table."""

import re
import unicodedata

# What begins a formula in the common spreadsheets (OWASP, "CSV injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: object) -> str:
    """Each character that a terminal could obey, or not show, as a question mark."""
    plain = str(text)
    if plain.isprintable():  # as a picture of megabytes is
        return plain
    return "".join(
        # Python counts all spaces but the common one among the unprintable.
        c if c.isprintable() or unicodedata.category(c) == "Zs" else "?"
        for c in plain
    )


def markdown(text: str) -> str:
    """The text as Markdown shows it: no tag, link, emphasis or border of a table."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", printable(text)).replace("<", "&lt;")


def cell(text: str) -> str:
    """The text as a cell of a CSV file, which no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
