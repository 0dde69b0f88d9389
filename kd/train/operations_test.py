"""Operations of traces: own times, devices, and a real trace."""

import json

import jax
import numpy as np

from kd.train import operations
from kd.train import profiling

# 2 devices. On the first, a loop of 10 us contains products of 4 us and 3 us.
# After 5 us without operations, the product runs outside of the loop.
_XSPACE = """
planes {
  name: "/device:TPU:0"
  lines {
    name: "XLA Ops"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 10000000 }
    events { metadata_id: 2 offset_ps: 1000000 duration_ps: 4000000 }
    events { metadata_id: 2 offset_ps: 5000000 duration_ps: 3000000 }
    events { metadata_id: 2 offset_ps: 15000000 duration_ps: 6000000 }
  }
  lines {
    name: "Steps"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 90000000 }
  }
  event_metadata { key: 1 value { id: 1 name: "%while.1 = (f32[]) while()" } }
  event_metadata { key: 2 value { id: 2 name: "%dot.2 = f32[] dot()" } }
}
planes {
  name: "/device:TPU:1"
  lines {
    name: "XLA Ops"
    events { metadata_id: 7 offset_ps: 0 duration_ps: 2000000 }
  }
  event_metadata { key: 7 value { id: 7 name: "%dot.2 = f32[] dot()" } }
}
"""


def test_times_exclude_nested_operations_and_cover_all_devices(tmp_path):
  text = jax.profiler.ProfileData.text_proto_to_serialized_xspace(_XSPACE)
  (tmp_path / 'a.xplane.pb').write_bytes(text)
  found = operations.read(str(tmp_path))
  times = [(x.name, x.calls, round(x.seconds * 1e6)) for x in found.operations]
  assert times == [('dot.2', 4, 15), ('while.1', 1, 3)]
  np.testing.assert_allclose(found.busy_s, (16e-6 + 2e-6) / 2)
  path = operations.write(str(tmp_path), found, 10, 3, 36e-6)
  with open(path, encoding='utf-8') as f:
    lines = f.read().splitlines()
  assert 'Steps 11 to 13 took 0.000 s; in 25% of it' in lines[2]
  assert lines[-2:] == [
    '| `dot.2` |  |  | 4 | 0.005 | 83.3% |',
    '| `while.1` |  |  | 1 | 0.001 | 16.7% |',
  ]


def test_only_the_chosen_steps_are_traced(tmp_path):
  update = jax.jit(lambda x: x @ x)
  said, paused = [], []

  def run(start):
    profiler = profiling.Profiler(
      str(tmp_path), 2, 3, start, paused.append, said.append
    )
    x = np.ones((64, 64), np.float32)
    for step in range(start, 7):
      profiler.before(step, x)
      x = update(x)
      profiler.after(step + 1, x)
    profiler.close()

  run(0)
  run(2)  # The first step of a process compiles and is not traced.
  folder = tmp_path / 'profile'
  assert said == [f'traced 3 steps: {folder}/operations.md']
  with open(folder / 'operations.json', encoding='utf-8') as f:
    fields = json.load(f)
  assert (fields['first_step'], fields['steps']) == (2, 3)
  programs = [x for x in fields['operations'] if '_lambda' in x['program']]
  assert programs and {x['calls'] for x in programs} == {3}
  assert 0 < fields['busy_s'] <= fields['wall_s'] * 1.5
  assert len(paused) == 2
