"""Virtual environments of the peers, made when they are first asked for, and their answers, each asked for once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.peers import crossing
from benchmarks.peers.crossing import Answer, Settings, read_answer

ROOT = Path(__file__).parents[2]

FOLDER = ROOT / "benchmarks" / ".peers"
"""Environments, tasks and answers; some 2 GB that git ignores."""

_SAME = ("torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1", "safetensors==0.8.0", "PuLP==3.3.2")

PINS: Mapping[str, tuple[str, ...]] = {
    "mct": (*_SAME, "model-compression-toolkit==2.6.1", "mct-quantizers==1.7.0", "edge-mdt-cl==1.1.1"),
    # its import wants two packages that it does not ask for
    "modelopt": (*_SAME, "nvidia-modelopt==0.47.0", "requests==2.34.2", "huggingface_hub==2.4.0"),
}
"""What pip installs for each peer."""


def answered(settings: Settings, task: Path) -> tuple[Answer, np.ndarray]:
    """A peer's answer with its ``(n, n_classes)`` test logits, from its environment or from the last time.

    Asked again if the task, the settings, the versions or the script changed.

    Raises:
        RuntimeError: the peer failed; the message has the end of what it printed.
    """
    folder = FOLDER / "results" / f"{settings.peer}-{_key(settings, task)}"
    if not (folder / "answer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        script = f"benchmarks.peers.{settings.peer}_peer"
        said = [str(task.resolve()), str(folder.resolve()), json.dumps(asdict(settings))]
        (folder / "settings.json").write_text(said[-1], encoding="utf-8")
        _run([str(environment(settings.peer)), "-m", script, *said], folder / "log")
    return read_answer(folder)


def environment(peer: str) -> Path:
    """The Python of a peer's environment, which is made and filled if it is missing or has other versions.

    Raises:
        RuntimeError: something cannot be installed; the message has the end of what pip printed.
    """
    folder, python = FOLDER / peer, FOLDER / peer / "bin" / "python"
    stamp, pins = folder / "pins.txt", "\n".join(PINS[peer])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pins:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / ".gitignore").write_text("*\n", encoding="utf-8")
        print(f"installing {PINS[peer][len(_SAME)]} into {folder} ...", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], FOLDER / f"{peer}.log")
        _run([str(python), "-m", "pip", "install", "--no-compile", *PINS[peer]], FOLDER / f"{peer}.log")
        stamp.write_text(pins, encoding="utf-8")
    return python


def _key(settings: Settings, task: Path) -> str:
    """12 hexadecimal digits over everything that an answer follows from."""
    script = Path(__file__).with_name(f"{settings.peer}_peer.py")
    digest = hashlib.sha256(json.dumps([asdict(settings), PINS[settings.peer]], sort_keys=True).encode())
    for file in (script, Path(crossing.__file__), *sorted(task.iterdir())):
        digest.update(_content(file))
    return digest.hexdigest()[:12]


def _content(file: Path) -> bytes:
    if file.suffix != ".npz":
        return file.read_bytes()
    with np.load(file) as stored:  # the archive itself holds the time of its writing
        return b"".join(name.encode() + stored[name].tobytes() for name in sorted(stored.files))


def _run(command: list[str], log: Path) -> None:
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone.pop("PYTHONPATH", None)
    with log.open("wb") as stream:
        ended = subprocess.run(command, cwd=ROOT, env=alone, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command[:4])} … failed:\n{tail}")
