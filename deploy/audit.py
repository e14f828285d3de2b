"""Look for known vulnerabilities of the pinned packages: `make audit`.

The advisories are those of OSV (https://osv.dev), or of the service at the URL in `OSV_URL`. Exit
codes: 0 without findings, or if no service answers, which is said; 1 with findings.
"""

import json
import os
import subprocess
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path

SERVICE = "https://api.osv.dev/v1/query"
SECONDS = 10
PROBE = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "24.0"}


def main(pins: Path) -> int:
    """Ask for each package in a file of pins; return the exit code."""
    service = os.environ.get("OSV_URL") or SERVICE
    fault = unreachable(service)
    if fault:
        text = "audit not run: no advisory service reachable"
        print(f"{text} ({service}: {fault}); name another one in OSV_URL", file=sys.stderr)
        return 0
    command = [sys.executable, "-m", "pip_audit", "--strict", "--progress-spinner=off"]
    command += ["--no-deps", "--disable-pip", "--requirement", str(pins)]
    return subprocess.run(
        [*command, "--vulnerability-service=osv", f"--osv-url={service}"]
    ).returncode


def unreachable(service: str) -> str:
    """Return why a service does not answer as OSV does; empty if it does."""
    request = urllib.request.Request(service, json.dumps(PROBE).encode())
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            answered = json.load(answer)
    except (OSError, ValueError, HTTPException) as error:
        return str(error)
    return "" if isinstance(answered, dict) else "the answer is no JSON object"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "constraints.txt")))
