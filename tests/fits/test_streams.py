"""Streams of one seed are apart: of patients, of every purpose, and within a purpose."""

import numpy as np

from reinfuse.fits.streams import Stream, generator, generators


def test_no_two_streams_of_a_seed_are_the_same():
    blocks = [np.random.default_rng(np.random.SeedSequence(7, spawn_key=(k,))) for k in range(100)]
    purposes = [each for of in Stream for each in (generator(7, of), *generators(7, of, 3))]
    first = [rng.integers(2**63) for rng in (*blocks, *purposes)]
    assert len(set(first)) == len(first) == 100 + 4 * len(Stream)


def test_a_stream_is_that_of_its_seed():
    assert generator(7, Stream.TABLES).integers(2**63) == generator(7, Stream.TABLES).integers(2**63)
    assert generator(7, Stream.TABLES).integers(2**63) != generator(8, Stream.TABLES).integers(2**63)
