"""Captions a second of clipkit's tokenizer and of OpenAI's, on the same distinct captions in turn.

    python bench/tokenizer.py [--captions 40000] [--runs 5]

Each side tokenizes batches of 256 captions, cut to 77 tokens, in a process of its own that has read its
tables and nothing else: the memory of words that it has seen is empty. Real captions cannot be shipped; these
are as the web has them: Zipf's frequencies over a vocabulary in which every eighth word is rare, capitals,
numbers, marks. `plain` is ASCII without entities, as Conceptual Captions are; of `mixed` 8% have curly
quotes or dashes, 8% accents or another script, 4% entities, 0.5% mojibake.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate

BATCH = 256
SIDES = ("clipkit", "openai")
KINDS = ("plain", "mixed")
FOREIGN = "été naïve Größe schöne niño São Łódź żółty příliš İstanbul красивая ёлка ψυχή 東京タワー 写真 صورة"
ENDS = ("", "", "", ".", "!", " ...", " (2)", " - 12x18", ", black/white", " #4", ": part 2", " by the sea.")


def captions(kind: str, count: int) -> list[str]:
    """So many distinct ones."""
    from clipkit.model.tokenizer import END_OF_WORD, vocabulary

    draw = random.Random(kind)
    ended = (token.removesuffix(END_OF_WORD) for token in vocabulary().ids if token.endswith(END_OF_WORD))
    words = [word for word in ended if word.isascii() and word.isalpha() and len(word) > 1]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    made: dict[str, None] = {}
    while len(made) < count:
        chosen = draw.choices(words, cum_weights=weights, k=max(2, round(draw.gauss(10, 4))))
        for place in range(len(chosen)):
            if draw.random() < 0.125:
                chosen[place] = draw.choice(words) + draw.choice(words)
            if draw.random() < 0.2:
                chosen[place] = draw.choice(
                    (chosen[place].title(), f"{chosen[place]},", f"{draw.randint(1, 2026)}")
                )
        chance = draw.random()
        if kind == "mixed" and chance < 0.205:
            chosen[draw.randrange(len(chosen))] += _web(draw, chance)
        made[" ".join(chosen).capitalize() + draw.choice(ENDS)] = None
    return list(made)


def _web(draw: random.Random, chance: float) -> str:
    if chance < 0.08:
        return draw.choice(("’s", " – ", "…", "” “", " — "))
    if chance < 0.16:
        return " " + " ".join(draw.choices(FOREIGN.split(), k=draw.randint(1, 3)))
    return draw.choice((" &amp; ", "&#39;s", "&quot;")) if chance < 0.2 else draw.choice(("â€™s", " cafÃ©"))


def side(name: str) -> Callable[[Sequence[str]], object]:
    """What tokenizes a batch."""
    if name == "clipkit":
        from clipkit.model.tokenizer import Tokenizer

        return Tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import clip
    return lambda batch: clip.tokenize(batch, truncate=True)


def measure(name: str, kind: str, count: int) -> None:
    made = captions(kind, count)
    batches = [made[first : first + BATCH] for first in range(0, count, BATCH)]
    tokenize = side(name)
    tokenize(["a photo"])
    begun = time.perf_counter(), time.process_time()
    for batch in batches:
        tokenize(batch)
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    print(json.dumps({"wall": wall / count, "cpu": cpu / count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.kind, options.captions)
        return
    print("| captions | side | µs CPU a caption | a second of CPU | clipkit's speed |\n|---|---|---|---|---|")
    for kind in KINDS:
        done: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        for _ in range(options.runs):
            for name in SIDES:
                command = [
                    sys.executable,
                    __file__,
                    "--side",
                    name,
                    "--kind",
                    kind,
                    "--captions",
                    str(options.captions),
                ]
                done[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        for name in SIDES:
            cpu = statistics.median(run["cpu"] for run in done[name])
            pairs = zip(done[name], done["clipkit"], strict=True)
            ratio = statistics.median(theirs["cpu"] / ours["cpu"] for theirs, ours in pairs)
            print(f"| {kind} | {name} | {1e6 * cpu:.1f} | {1 / cpu:,.0f} | × {ratio:.1f} |")


if __name__ == "__main__":
    main()
