"""Reads README, CONTRIBUTING and docs as a newcomer does: spelling, words, sentences.

python .ci/check_words.py [FILE...]

codespell looks for misspelt words; WORDS has what this project says in other words;
a sentence has at most 25 words in the README and 30 elsewhere. Exits with 1 where
something is found.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
MOST_WORDS, MOST_WORDS_README = 30, 25
# Written by docs/generate.py from comments and docstrings.
GENERATED = "docs/reference/"
# What is not said here -> what is.
WORDS = {
    r"(is|are|was|were|gets?) told": "is said, is printed",
    r"rooms|house|doors?": "layers, libraries, importers",
    r"seed('s)? (recipe|protocol|code|split)": "the original recipe",
    r"the original seed": "the original recipe",
    r"ledgers?": "table, list",
    r"diar(y|ies)": "history, measurements",
    r"can run out": "use up",
    r"the whole took": "it took",
    r"hear of": "know",
    r"whatsoever|whosoever|thereof|hereby": "plain words",
    r"utili[sz]e[sd]?|leverag(e|es|ed|ing)": "use",
    r"seamless(ly)?|blazing(ly)?|cutting-edge|state-of-the-art": "the measured fact",
    r"master|slave|whitelist|blacklist": "main, worker, allowed, refused",
}
BANNED = {re.compile(rf"\b(?:{word})\b", re.I): cure for word, cure in WORDS.items()}
# Dots that end no sentence.
ABBREVIATIONS = re.compile(r"\b(et al|e\.g|i\.e|vs|Fig|Sec|Commun|Stat|Am|J|R|B|Soc)\.")
END = re.compile(r"(?<=[.?!])[\"')\]*]*\s+(?=[\"'(\[*]*(?:[A-Z0-9]|CODE))")


def plain(token: Token) -> str:
    """The words of a paragraph, a heading or a cell; code counts as one word."""
    found = []
    for child in token.children or ():
        if child.type == "code_inline":
            found.append("CODE")
        elif child.type in ("softbreak", "hardbreak"):
            found.append(" ")
        elif child.type in ("text", "text_special"):
            found.append(child.content)
    return "".join(found)


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Line and words of each paragraph, list item, heading and cell of a table."""
    # Lines of directives such as :::{grid} are no text.
    text = re.sub(r"^:+.*$", "", text, flags=re.MULTILINE)
    line = 0
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            yield line, plain(token)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph."""
    whole = ABBREVIATIONS.sub(lambda match: match[0].rstrip("."), paragraph)
    return END.split(whole)


def count(sentence: str) -> int:
    """How many words a sentence has."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def faults(name: str, text: str) -> Iterator[str]:
    """What is found in a page: a word that is said otherwise, a long sentence."""
    most = MOST_WORDS_README if name == "README.md" else MOST_WORDS
    for line, paragraph in paragraphs(text):
        for pattern, cure in BANNED.items():
            for match in pattern.finditer(paragraph):
                yield f"{name}:{line}: {match[0]!r} is not said here; say {cure}"
        for sentence in sentences(paragraph):
            words = count(sentence)
            if words > most:
                start = " ".join(sentence.split()[:8])
                yield f"{name}:{line}: {words} words, at most {most}: {start} …"


def pages() -> list[str]:
    """The pages that are looked at."""
    found = ["README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md"]
    found += ["ACKNOWLEDGEMENTS.md"]
    found += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")]
    return [name for name in sorted(found) if not name.startswith(GENERATED)]


def main() -> int:
    """Prints what is found; returns 1 where something is."""
    names = sys.argv[1:] or pages()
    found = [
        fault for name in names for fault in faults(name, (ROOT / name).read_text())
    ]
    print("\n".join(found))
    spelt = subprocess.run(["codespell", *names], cwd=ROOT)  # noqa: S603, S607
    return int(bool(found) or spelt.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
