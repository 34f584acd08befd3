"""What the GPU check finds: one line each as it comes, then one JSON file and one Markdown file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmx.evaluation import environment
from mmx.runtime.errors import MmxError
from mmx.runtime.files import write_text


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: its status (ok, wrong, missing, failed), what was seen, and figures."""

    part: str
    name: str
    status: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)


class Report:
    """Collects findings and prints each as it comes."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Keep and print one."""
        self.findings.append(finding)
        print(f"  {finding.status:8} {finding.part:10} {finding.name}: {finding.detail}", flush=True)

    def attempt(self, part: str, name: str, work: Callable[[], tuple[str, dict[str, Any]]]) -> bool:
        """Do something; whatever goes wrong becomes a finding. Returns whether it went well."""
        try:
            detail, figures = work()
        except MmxError as e:
            self.add(Finding(part, name, "missing", str(e)))
        except Exception as e:  # a check that fails must not end the others
            self.add(Finding(part, name, "failed", f"{type(e).__name__}: {e}".splitlines()[0][:300]))
        else:
            self.add(Finding(part, name, "ok", detail, figures))
            return True
        return False


def write(report: Report, out: Path, seconds: float) -> None:
    """OUT.json for machines, OUT.md for people; the same findings."""
    here = environment.describe()
    command = "python studies/gpu_check.py " + " ".join(sys.argv[1:])
    data = {
        "schema_version": 1,
        "command": command.strip(),
        "seconds": round(seconds, 1),
        "environment": asdict(here),
        "findings": [asdict(finding) for finding in report.findings],
    }
    lines = ["# GPU check", "", f"`{command.strip()}`", "", *here.lines(), ""]
    lines += ["| part | what | status | seen |", "|---|---|---|---|"]
    lines += [f"| {f.part} | {f.name} | {f.status} | {f.detail.replace('|', '/')} |" for f in report.findings]
    for suffix, text in ((".json", json.dumps(data, indent=2) + "\n"), (".md", "\n".join(lines) + "\n")):
        path = out.with_name(out.name + suffix)
        write_text(path, text)
        print(f"  wrote {path}")
