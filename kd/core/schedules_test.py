"""Bounds of schedules are computed without a device."""

import numpy as np
import pytest

from kd.core import schedules

_RATES = dict(peak=3e-4, warmup_steps=3)
_SPECS = {
  'warmup_cosine': dict(_RATES, final=1e-5),
  'warmup_linear': dict(_RATES, final=1e-5),
  'constant': _RATES,
  'inverse_sqrt': _RATES,
  'linear': dict(begin=4.0, end=0.5, first_step=2, last_step=9),
  'cosine': dict(begin=0.0, end=1.0, first_step=2, last_step=9),
}


@pytest.mark.parametrize('name', schedules.SCHEDULES.names())
@pytest.mark.parametrize('steps', [4, 10, 1000])
def test_python_values_equal_those_of_a_traced_step(name, steps):
  spec = {'name': name, **_SPECS[name]}
  schedule = schedules.build(spec, 'rate', steps)
  points = [*range(min(steps, 12) + 1), steps // 2, steps]
  plain = [schedule.plain(step) for step in points]
  computed = [float(schedule(step)) for step in points]
  np.testing.assert_allclose(plain, computed, rtol=2e-6, atol=1e-9)
  lowest, highest = schedules.extremes(schedule, steps)
  np.testing.assert_allclose(
    [lowest, highest],
    [min(computed), max(computed)],
    rtol=2e-6,
    atol=1e-9,
  )
