"""The model card: read back by the Hub's own client, with every part that a reader needs, whatever names hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from mmx.cli.main import main
from mmx.export.variant_writer import made_now
from mmx.runtime.bundle import Bundle
from mmx.runtime.card import model_card
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Manifest
from mmx.runtime.notices import LAW, SYNTHETIC, UNTRAINED, model_flags
from mmx.runtime.records import EvaluationRecord, ScoredFault, ScoredRow, ScoredSet
from mmx.runtime.variants import read_variant


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return Bundle.open(tiny_bundle, verify=False).manifest


def evaluation(source: str) -> EvaluationRecord:
    return EvaluationRecord(
        precision="fp32",
        source=source,
        files={},
        data="mosei",
        split="test",
        samples=412,
        asked="an error of 10%",
        cpu="Some CPU",
        rows=(ScoredRow("PyTorch", 0.512, 0.8, 0.7, 20.0), ScoredRow("onnxruntime fp32", 0.511, 0.8, None, 8.0)),
        sets=(ScoredSet("text+audio", 412, 0.5, 0.154, 0.1, 0.021, 0.08, 0.48, 0.09),),
        faults=(ScoredFault("noise", 0.0, "dB SNR", 0.4, 0.1, None),),
        **made_now(),
    )


def read(card: str) -> tuple[dict, str]:
    """The metadata and the text, as the Hub's client reads them."""
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard(card)
    return found.data.to_dict(), found.text


def test_the_card_of_a_new_bundle_says_what_everyone_must_know(tiny_bundle: Path, manifest: Manifest) -> None:
    data, text = read((tiny_bundle / "README.md").read_text())
    assert data["model_name"] == "tiny.mmx" and data["language"] == ["en"] and data["datasets"] == ["iemocap"]
    assert data["library_name"] == "mmx" and "license" not in data
    for part in (UNTRAINED, LAW, "Not measured: `mmx eval tiny.mmx --data DIR`", "FP32 alone"):
        assert part in text
    assert "5(1)(f)" in LAW and "50(3)" in LAW
    rows = {row.split(" | ")[0].strip("| "): row for row in text.partition("## Licences")[2].splitlines() if "|" in row}
    assert "not stated" in rows["weights (tiny.pt)"] and "research" in rows["training data"]
    assert "mtcnn-runtime" in rows["face nets"] and "forbids commercial use" in rows["face nets"]
    assert rows["onnxruntime"].endswith("MIT License |") and "GPL" in rows["FFmpeg (in av)"] and "tokenizer" in rows
    assert f"worst relative error {manifest.graphs['fp32'].parity['worst']:.1e}" in text
    assert model_flags(manifest) == ("untrained_model",)
    trained = replace(manifest, provenance={"checkpoint": {"untrained": False}}, dataset="synthetic")
    assert model_flags(trained) == ("synthetic_model",)


def test_what_was_measured_later_is_in_the_card(manifest: Manifest) -> None:
    found = evaluation("0" * 64)
    licensed = replace(manifest, provenance={**manifest.provenance, "license": "cc-by-nc-4.0"}, dataset="synthetic")
    data, text = read(model_card(licensed, "ckpt.mmx", [found]))
    assert data["license"] == "cc-by-nc-4.0"
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert {each["type"]: each["value"] for each in result["metrics"]} == {"f1": 0.512, "accuracy": 0.8}
    for row in (
        "### mosei, test split, 412 utterances",
        "| onnxruntime fp32 | 51.1 | 80.0 | - | 8.0 | 2.50x |",
        "on Some CPU.",
        "| text+audio | 412 | 15.4 -> 2.1 | 10.0 -> 8.0 | 48.0 | 9.0 |",
        "| noise | 0 dB SNR | 40.0 | 10.0 | - |",
        f"Measured {found.created[:10]} with mmx",
    ):
        assert row in text
    assert UNTRAINED in text and SYNTHETIC not in text


def test_names_cannot_break_out_of_their_cells(manifest: Manifest) -> None:
    hostile = 'a"|<script>`\n[x](y)'
    given = replace(manifest, labels=(hostile, *manifest.labels[1:]), dataset=hostile, form=hostile)
    data, text = read(model_card(given, hostile))
    assert data["model_name"] == hostile and data["datasets"] == [hostile]
    assert "<script" not in text and "[x]" not in text


def test_the_record_is_kept_in_the_bundle_and_shown(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(copytree(tiny_bundle, tmp_path / "b.mmx"))
    folder = bundle.path / "variants" / "evaluation-test-x"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(evaluation(bundle.graph_sha256).to_json())
    (variant,) = bundle.refreshed().variants
    assert isinstance(variant.record, EvaluationRecord) and variant.record.rows[0].f1 == 0.512
    assert main(["inspect", "--card", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("---\n") and "### mosei, test split, 412 utterances" in shown and "# b.mmx" in shown
    assert main(["inspect", str(bundle.path)]) == 0
    assert "licence     not stated (of the weights)" in capsys.readouterr().out
    assert main(["inspect", "--card", "--json", str(bundle.path)]) == 2

    content = json.loads((folder / "record.json").read_text())
    content["rows"][0]["f1"] = 7
    (folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(BadDataError, match="7 is not within 0 to 1"):
        read_variant(folder)
    assert not bundle.refreshed().variants and "not within" in bundle.refreshed().passed_over[0].reason
