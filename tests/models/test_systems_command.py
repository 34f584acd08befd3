"""``mmx systems`` lists the registry without torch."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner

from mmx.cli.systems import systems
from mmx.models.registry import SYSTEMS


def test_table_names_every_system_and_its_count():
    lines = CliRunner().invoke(systems).output.splitlines()
    for system in SYSTEMS.values():
        (line,) = (line for line in lines if line.split()[:1] == [system.name])
        assert line.endswith(f"{system.parameters['total']:,}")
    assert max(map(len, lines)) <= 135


def test_json():
    records = json.loads(CliRunner().invoke(systems, ["--json"]).output)
    assert {r["name"]: r["parameters"] for r in records} == {n: dict(s.parameters) for n, s in SYSTEMS.items()}


def test_no_torch():
    code = "import sys, mmx.cli.systems; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
