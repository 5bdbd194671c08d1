"""Text of anybody's in HTML, Markdown and LaTeX: shown as it is, and never read as the language around it."""

import html
import re

from rlab.door import clean

_NOT_XML = re.compile("[\ufffe\uffff]")
_MARKDOWN = re.compile(r"([\\`*_|~$&]|\](?=[(\[:]))")  # a bracket alone is no link
_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # which at the beginning of a row would be read as an argument of the row before, and so would
    "*": "{*}",
    "\N{MINUS SIGN}": "$-$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}


def one_line(text: object) -> str:
    """Without controls and ends of lines."""
    return " ".join(_NOT_XML.sub("", clean(text)).split())


def in_html(text: object) -> str:
    """As the content of an element or of a quoted attribute."""
    return html.escape(_NOT_XML.sub("", clean(text)))


def in_markdown(text: object) -> str:
    """As a cell of a table."""
    return _MARKDOWN.sub(r"\\\1", one_line(text)).replace("<", "&lt;").replace(">", "&gt;")


def in_latex(text: object) -> str:
    """As a cell of a table."""
    return "".join(_LATEX.get(letter, letter) for letter in one_line(text))


def slug(text: object, most: int = 60) -> str:
    """As an id in a page and a part of a file's name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", one_line(text)).strip("-.")[:most].strip("-.") or "x"
