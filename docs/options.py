"""Write the table of the server's options into operations.md: `python docs/options.py`."""

from pathlib import Path

from metanas.util.fields import Declaration
from metanas_server.config import MIB, options

PAGE = Path(__file__).with_name("operations.md")
BEGIN, END = "<!-- options: python docs/options.py -->\n", "<!-- end of options -->\n"

OF_THE_MACHINE = {"checkpoints": "the shipped ones", "devices": "`cpu` for each core, at most 4"}
"""Defaults that depend on the machine, in words."""


def table() -> str:
    """Return the table, in Markdown."""
    lines = ["| option | values | default | meaning |", "|---|---|---|---|"]
    for each in options():
        cells = (f"`--{each.name.replace('_', '-')}`", each.kind, _default(each), each.help)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with the present table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def _default(option: Declaration) -> str:
    if option.name in OF_THE_MACHINE:
        return OF_THE_MACHINE[option.name]
    match option.default:
        case None:
            return "none"
        case bool(value):
            return "on" if value else "off"
        case int(value) if value >= MIB and value % MIB == 0:
            return f"{value // MIB} MiB"
        case int(value) | float(value):
            return f"{value:,.10g}"
        case value:
            return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
