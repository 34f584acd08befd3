"""``mmx doctor``: try everything mmx can use on this machine, and say what to install for the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version

import click

from mmx.cli.command import command
from mmx.cli.options import shared
from mmx.cli.probes import CORE, PROBES, Finding
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.to_json import to_json

TIMEOUT_S = 120
COLOURS = {"ok": "green", "missing": "yellow", "failed": "red"}


@command()
@shared("--json", "as_json", help="Print one JSON object: schema_version, mmx, core_ok, findings.")
def doctor(as_json: bool) -> int:
    """Try what this machine can run: backends, devices, decoders, drivers.

    Each line is something that was done just now (ok), is not installed (missing, with what to install) or did not
    work (failed, with the reason). Exits with 4 if this machine cannot predict, else with 0.
    """
    findings: list[Finding] = []
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for found in pool.map(try_apart, PROBES):
            findings += found
            if not as_json:
                for finding in found:
                    click.echo(line(finding))
    core_ok = set(CORE) <= {finding.name for finding in findings if finding.status == "ok"}
    if as_json:
        report = {"schema_version": 1, "mmx": version("mmx"), "core_ok": core_ok}
        click.echo(to_json({**report, "findings": [asdict(finding) for finding in findings]}))
    elif core_ok:
        click.echo(f"mmx {version('mmx')} can predict on this machine.")
    else:
        click.echo(f"mmx {version('mmx')} cannot predict on this machine: see the lines above.", err=True)
    return 0 if core_ok else EnvironmentMissing.exit_code


def try_apart(probe: str) -> list[Finding]:
    """Run one probe in a Python of its own, so that a library that crashes or hangs is a finding, not the end."""
    code = "import json, sys; from dataclasses import asdict; from mmx.cli.probes import find; "
    code += "print(json.dumps([asdict(f) for f in find(sys.argv[1])]))"
    try:
        done = subprocess.run([sys.executable, "-c", code, probe], capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [Finding(probe, "failed", f"did not answer within {TIMEOUT_S} s")]
    if done.returncode:
        return [Finding(probe, "failed", _how_it_ended(done))]
    return [Finding(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def line(finding: Finding) -> str:
    """One line of the report."""
    status = click.style(f"{finding.status:8}", fg=COLOURS[finding.status])
    install = f"  -> {finding.install}" if finding.install else ""
    return f"{status}{finding.name:18}{finding.detail}{install}"


def _how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name})"
    last: Iterator[str] = (line for line in reversed(done.stderr.splitlines()) if line.strip())
    return next(last, f"exited with {done.returncode}")
