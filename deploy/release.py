"""Write the version of a release into all distributions and the changelog.

`make release VERSION=0.2.0` runs it, commits the change, tags it and builds the wheels.
"""

import datetime as dt
import re
import sys
import tomllib
from pathlib import Path

FORM = re.compile(r"\d+\.\d+\.\d+(rc\d+)?")
HEADING = "## [Unreleased]\n"


def main(root: Path, version: str, day: dt.date) -> str | None:
    """Change the files below `root`; return an error, or None."""
    if not FORM.fullmatch(version):
        return f"{version!r} is no version: give one as in make release VERSION=0.2.0"
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    old = tomllib.loads(text)["project"]["version"]
    changelog = root / "CHANGELOG.md"
    changes = changelog.read_text(encoding="utf-8")
    if f"## [{version}]" in changes:
        return f"version {version} has been released; give a later one"
    for pattern in ("pyproject.toml", "*/pyproject.toml", "metanas/__init__.py", "*/*/__init__.py"):
        for path in root.glob(pattern):
            _replace(path, old, version)
    dated = f"{HEADING}\n## [{version}] - {day.isoformat()}\n"
    changelog.write_text(changes.replace(HEADING, dated, 1), encoding="utf-8")
    return None


def _replace(path: Path, old: str, version: str) -> None:
    """Replace the version of a distribution and those of its siblings."""
    text = path.read_text(encoding="utf-8")
    for form in ('\nversion = "{}"\n', '\n__version__ = "{}"\n'):
        text = text.replace(form.format(old), form.format(version))
    text = re.sub(rf'"(metanas[a-z-]*)=={re.escape(old)}"', rf'"\1=={version}"', text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path.cwd(), sys.argv[1], dt.datetime.now(dt.UTC).date()))
