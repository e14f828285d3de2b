"""Format numbers and durations for people."""


def counted(count: int, one: str, several: str) -> str:
    """Format a count: `1 class`, `12 classes`."""
    return f"{count} {one if count == 1 else several}"


def duration(seconds: float) -> str:
    """Format seconds: `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
