"""Answers that repeat themselves: a sentence again and again, or the same few words."""

import re

from sft.metrics import WORD

# Each group of this many words is compared with those before it.
WORDS = 4

# The share of repeated groups from which on a text counts, and the fewest words that it must have.
SHARE = 0.5
FEWEST = 8

# A sentence of at least this many words counts if it occurs this often.
SENTENCE = 3
TIMES = 3

END_OF_SENTENCE = re.compile(r"[.!?。！？\n]+")


def repeats_itself(text: str) -> bool:
    """Return whether a text loops.

    It does if a sentence of three words or more occurs three times. It also does if at least half
    of its groups of four words occurred before: seq-rep-4 of "Neural Text Generation with
    Unlikelihood Training" (Welleck et al., 2020) with a limit of 0.5. Case and punctuation do not
    count. A text of fewer than eight words has too few groups.
    """
    words = WORD.findall(text.casefold())
    if len(words) >= FEWEST and repeated(words) >= SHARE:
        return True

    seen: dict[tuple[str, ...], int] = {}
    for sentence in END_OF_SENTENCE.split(text.casefold()):
        key = tuple(WORD.findall(sentence))
        seen[key] = seen.get(key, 0) + 1
    return any(len(key) >= SENTENCE and count >= TIMES for key, count in seen.items())


def repeated(words: list[str], size: int = WORDS) -> float:
    """Return the share of the groups of `size` words that occurred before, seq-rep-n; 0 of none."""
    groups = list(zip(*(words[start:] for start in range(size)), strict=False))
    return 1 - len(set(groups)) / len(groups) if groups else 0.0
