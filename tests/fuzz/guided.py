"""The same targets under atheris, guided by coverage of the suite's own code.

atheris (PyPI) is no part of the lock: it is large and knows only some Pythons. Where it is
installed, `python -m tests.fuzz --guided SECONDS` uses it, one process a target, because libFuzzer
never returns. Half of the inputs are made by our own mutator, half by libFuzzer's.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

MAX_LENGTH = 16 * 1024  # bytes: short inputs find new branches sooner


def run_each(names: Sequence[str], seconds: int, folder: Path) -> int:
    """Run the targets one after the other; 1 if one of them found something, 2 without atheris."""
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("atheris is not installed here: pip install atheris, or leave --guided out\n")
        return 2
    statuses = [_start(name, seconds, folder) for name in names]
    return 1 if any(statuses) else 0


def _start(name: str, seconds: int, folder: Path) -> int:
    corpus = folder / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus)]
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", "-timeout=10", "-rss_limit_mb=4096"]
    return subprocess.run([*command, *limits, f"-artifact_prefix={folder}/{name}-"], check=False).returncode


def main() -> None:
    """`python -m tests.fuzz.guided TARGET CORPUS [libFuzzer's options]`; does not return."""
    atheris: Any = importlib.import_module("atheris")
    name, corpus, *options = sys.argv[1:]
    # What is imported in here is instrumented; only our own code, for pyca's is compiled.
    with atheris.instrument_imports(include=["brski_common", "brski_interop"]):
        targets = importlib.import_module("tests.fuzz.targets")
    errors = importlib.import_module("brski_common.errors")
    mutation = importlib.import_module("tests.fuzz.mutation")
    target = targets.TARGETS[name]
    seeds = list(target.seeds())
    for number, seed in enumerate(seeds):
        (Path(corpus) / f"seed-{number:03}").write_bytes(seed)

    def feed(data: bytes) -> None:
        with suppress(errors.BrskiError):
            target.read(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, max_size))
        return bytes(mutation.Mutator(Random(seed), seeds, max_size).mutate(data))

    atheris.Setup([sys.argv[0], corpus, *options], feed, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
