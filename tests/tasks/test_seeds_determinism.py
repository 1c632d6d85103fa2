"""The noise of a sample depends on the run's seed and the sample, and on nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.tasks.seeds import noise_seed


@given(seeds=st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True), sample=st.text())
def test_the_seed_of_a_samples_noise_depends_on_run_and_sample_and_fits_torch(seeds, sample):
    first, second = (noise_seed(seed, sample) for seed in seeds)
    assert first != second and noise_seed(seeds[0], sample) == first
    assert noise_seed(seeds[0], sample + "x") != first
    torch.Generator().manual_seed(first)
