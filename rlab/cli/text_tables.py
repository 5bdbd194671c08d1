"""Tables of text that read well in a narrow terminal: no word is cut."""

import itertools
import textwrap
from collections.abc import Sequence

LEAST_TEXT = 24  # characters in which text still reads well


def table(rows: Sequence[Sequence[str]], columns: Sequence[str], width: int | None) -> list[str]:
    """The rows under their headings, as lines. Where that is wider than `width` (None: any) the longest text is wrapped
    between words; where even that does not fit, each row has lines of its own."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    longest = max(range(len(columns)), key=widths.__getitem__)
    room = widths[longest] if width is None else width - (sum(widths) - widths[longest]) - 2 * (len(columns) - 1)
    if room < widths[longest]:
        longest_word = max(len(word) for line in lines for word in (*line[longest].split(), ""))
        if room < max(longest_word, LEAST_TEXT):
            return [each for row in rows for each in _row_alone(row, columns, width or 0)]
        widths[longest] = room
    shown = []
    for line in lines:
        wrapped = [_wrapped(cell, size) for cell, size in zip(line, widths, strict=True)]
        for cells in itertools.zip_longest(*wrapped, fillvalue=""):
            shown.append("  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip())
    return shown


def _row_alone(row: Sequence[str], columns: Sequence[str], width: int) -> list[str]:
    """A row as its first cell, and below it every other that says something, with its heading."""
    rest = ", ".join(f"{name}: {cell}" for name, cell in list(zip(columns, row, strict=True))[1:] if cell)
    return [row[0], *(f"    {line}" for line in _wrapped(rest, max(width - 4, 1)) if line)]


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
