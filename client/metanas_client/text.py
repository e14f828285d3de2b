"""Text for people: numbers with units, and names that are safe at a terminal."""

KB, MB = 1000, 1_000_000
NO_VALUE = "–"


def printable(text: str) -> str:
    """Escape control characters and everything else that a terminal may not show as it is."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def bare(name: str) -> str:
    """Return the last part of a resource name, which every command takes as well."""
    return name.rpartition("/")[2]


def percent(share: object) -> str:
    """Format a share from 0 to 1; a dash where there is none."""
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else NO_VALUE


def number(value: object) -> str:
    """Format a number: whole ones with thousands separated, others with three digits."""
    match value:
        case bool() | None:
            return NO_VALUE
        case int():
            return f"{value:,}".replace(",", " ")
        case float():
            return f"{value:.3g}"
    return str(value)


def size(value: float | None) -> str:
    """Format a number of bytes as KB or MB."""
    if value is None:
        return NO_VALUE
    if value < KB:
        return f"{value:.0f} bytes"
    return f"{value / KB:.0f} KB" if value < MB - KB / 2 else f"{value / MB:.1f} MB"
