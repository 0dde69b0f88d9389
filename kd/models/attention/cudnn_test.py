"""The arguments for cuDNN, computed by XLA, against the formula."""

import numpy as np
import pytest

from kd.models.attention import attention_cases as cases
from kd.models.attention import cudnn


@pytest.mark.parametrize('window', [None, 1, 8, 50])
def test_rows_of_one_text_equal_the_formula(window):
  """37 positions; results at padding are meaningless."""
  places = cases.places(30, right=7)
  arrays = cases.heads(37)
  real = (np.asarray(places.segment_ids) > 0)[..., None, None]
  arrays[-1] *= real
  attend = lambda *x: cudnn.attend(*x, window, cases.SCALE, 'xla')
  found = cases.run(attend, arrays)
  found[0] *= real
  wanted = cases.exact(arrays, cases.seen(places, window))
  for got, want in zip(found, wanted, strict=True):
    np.testing.assert_allclose(got, want, atol=3e-6)
