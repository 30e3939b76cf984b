from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo_mpq.network.data.splits import Split
from evo_mpq.network.data.thinning import thinned, thinned_positions


@given(st.integers(1, 60), st.integers(1, 17), st.floats(0.001, 1.0), st.booleans())
def test_the_samples_keep_their_order_their_targets_and_the_size_of_batches(
    n: int, batch_size: int, share: float, labelled: bool
) -> None:
    data = [((torch.tensor([float(i), 1.0]), torch.tensor([i])), i if labelled else None) for i in range(n)]
    places = thinned_positions(n, share).tolist()
    assert len(places) == min(n, int(np.ceil(round(share * n, 8)))) and places == sorted(set(places))
    batches = list(thinned(Split("search", data, batch_size).batches(), n, share))
    assert torch.cat([batch.indices for batch in batches]).tolist() == places
    for column in (0, 1):
        assert torch.cat([batch.inputs[column][:, 0] for batch in batches]).tolist() == places
    if labelled:
        assert torch.cat([batch.targets for batch in batches]).tolist() == places
    else:
        assert all(batch.targets is None for batch in batches)
    assert all(len(batch) == min(batch_size, n) for batch in batches[:-1])


def test_a_part_of_a_sorted_dataset_holds_all_of_its_classes() -> None:
    classes = np.repeat(np.arange(10), 100)
    assert set(classes[thinned_positions(1000, 0.125)]) == set(range(10))
