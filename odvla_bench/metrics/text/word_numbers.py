"""Numbers for the words of long texts, found with a few array operations for all words at once.

Eight bytes of a word are taken as one integer, so that most words are one. A table says for each
value of a hash which integer had it last and what its number is; where it is another integer, a
dictionary is asked.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import count, islice

import numpy as np
import numpy.typing as npt

from odvla_bench.metrics.text.corpus import IntArray

_Keys = npt.NDArray[np.uint64]

_HASH_BITS = 18
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ over the golden ratio, Knuth's multiplicative hash
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
"""What keeps the first n bytes of eight."""
_JOINED = 1 << 63
"""Tells a longer word from eight bytes of ASCII."""
_PART_BITS = 31


class WordNumbers:
    """Words by their numbers, which are given in order of appearance."""

    def __init__(self) -> None:
        """No words."""
        self.words: list[bytes] = []
        """A word for each number; some are only parts of the longer ones that were seen."""
        self._numbers: defaultdict[int, int] = defaultdict(count().__next__)
        self._last = np.full(1 << _HASH_BITS, 2**64 - 1, np.uint64)
        self._number_of_last = np.zeros(1 << _HASH_BITS, np.int32)

    def of(self, text: bytes) -> IntArray:
        """The number of each word of an ASCII text without null bytes; a space follows each."""
        stop = np.flatnonzero(np.frombuffer(text, np.uint8) == 0x20)
        start = np.zeros_like(stop)
        np.add(stop[:-1], 1, out=start[1:])
        left = stop - start
        eights: _Keys = np.ndarray(len(text), "<u8", text + bytes(8), strides=(1,))
        numbers = self._look_up(eights[start] & _FIRST_BYTES.take(left, mode="clip"))
        longer = np.flatnonzero(left > 8)
        start, left = start[longer], left[longer]
        while len(longer):
            start, left = start + 8, left - 8
            part = self._look_up(eights[start] & _FIRST_BYTES.take(left, mode="clip"))
            joined = np.array([numbers[longer], part]).astype(np.uint64)
            joined = joined[0] << np.uint64(_PART_BITS) | joined[1] | np.uint64(_JOINED)
            numbers[longer] = self._look_up(joined)
            goes_on = left > 8
            longer, start, left = longer[goes_on], start[goes_on], left[goes_on]
        return numbers

    def _look_up(self, keys: _Keys) -> IntArray:
        place = (keys * _FACTOR >> np.uint64(64 - _HASH_BITS)).view(np.int64)
        numbers = self._number_of_last[place]
        missed = np.flatnonzero(self._last[place] != keys)
        if len(missed):
            keys, place = keys[missed], place[missed]
            found = list(map(self._numbers.__getitem__, keys.tolist()))
            numbers[missed] = self._number_of_last[place] = found
            self._last[place] = keys
            new = islice(self._numbers, len(self.words), None)
            self.words.extend(map(self._word, new))
        return numbers

    def _word(self, key: int) -> bytes:
        if key < _JOINED:
            return key.to_bytes(8, "little").rstrip(b"\0")
        start, part = divmod(key - _JOINED, 1 << _PART_BITS)
        return self.words[start] + self.words[part]
