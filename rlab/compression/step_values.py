"""The values of steps, read from what follows their colon; each raises ValueError where it is none."""


def widths(value: str) -> tuple[int, ...]:
    """`64x64`, each 1 or more."""
    found = tuple(int(part) for part in value.split("x"))
    if min(found) < 1:
        raise ValueError(value)
    return found


def share(value: str) -> float:
    """Above 0 and below 1."""
    found = float(value)
    if not 0.0 < found < 1.0:
        raise ValueError(value)
    return found


def rank(value: str) -> int | float:
    """A whole number of 1 or more, or a share."""
    if value.isdecimal() and int(value) >= 1:
        return int(value)
    return share(value)
