"""What all fuzz targets share: seeds from the corpus, mutations of them, and a main program.

python -m tests.fuzz.fuzz_jsonspan [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
MAX_INPUT_BYTES = 4096


class Target:
    """One parser. `one_input` accepts any bytes, and raises if the parser breaks its word.

    `pieces` are what the parser knows, put in by mutations; the first `header_bytes` of an input say how it is fed.
    """

    def __init__(
        self, name: str, one_input: Callable[[bytes], None], *, pieces: list[bytes] | None = None, header_bytes: int = 2
    ) -> None:
        self.one_input = one_input
        self._corpus, self._pieces, self._header_bytes = CORPUS / name, pieces or [], header_bytes

    def seeds(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self._corpus.iterdir())]

    def mutations(self, chance: random.Random) -> Iterator[bytes]:
        """Yield seeds with bits flipped, pieces cut, doubled and exchanged, for ever."""
        inputs = self.seeds()
        while True:
            data = bytearray(chance.choice(inputs))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(data) + 1)
                size = chance.randint(0, 8)
                kind = chance.randrange(6)
                if kind == 0 and at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
                elif kind == 1:
                    del data[at : at + size]
                elif kind == 2:
                    data[at:at] = data[at : at + size]
                elif kind == 3:
                    data[at : at + size] = chance.randbytes(size)
                elif kind == 4 and self._pieces:
                    data[at:at] = chance.choice(self._pieces)
                else:
                    data[at:at] = chance.choice(inputs)[self._header_bytes :]
            yield bytes(data[:MAX_INPUT_BYTES])

    def main(self) -> None:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            self._run()
        else:
            atheris.Setup([*sys.argv, str(self._corpus)], self.one_input)
            atheris.Fuzz()

    def _run(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--seconds", type=float, default=60.0)
        parser.add_argument("--seed", type=int, default=None)
        options = parser.parse_args()
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}", flush=True)
        end = time.monotonic() + options.seconds
        count = 0
        for data in self.mutations(random.Random(seed)):
            if time.monotonic() > end:
                break
            try:
                self.one_input(data)
            except BaseException:
                print(f"input {data.hex()}", file=sys.stderr)
                raise
            count += 1
        print(f"{count} inputs")
