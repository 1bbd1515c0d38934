"""Draws what a command printed as a terminal, an SVG without fonts from elsewhere.

python docs/terminal.py TITLE LOG OUT.svg [--lines 30]

The log is what the command wrote, for example by `COMMAND 2>&1 | tee LOG`; of a long
one the last lines are shown.
"""

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 100  # columns


def drawing(title: str, lines: list[str]) -> str:
    """The SVG of some lines below a title."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id="terminal")
    # Its fonts come from a server; a monospaced one is everywhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main() -> None:
    """Writes the drawing of a log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("title")
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lines", type=int, default=30)
    flags = parser.parse_args()
    lines = flags.log.read_text().splitlines()[-flags.lines :]
    flags.out.write_text(drawing(flags.title, lines) + "\n")


if __name__ == "__main__":
    main()
