"""A workdir belongs to one config."""

import json
import os

import ml_collections

from kd.core import config as config_lib

CONFIG_FILE = 'config.json'

# Parts of a config that change nothing of what is trained; `nonfinite` is what
# a run that it stopped goes on with, a mesh changes only how sums are rounded.
_OUTPUTS = (
  *('export.', 'generate.', 'plan.', 'data.read.', 'nonfinite'),
  *('reasoning.', 'search.'),
  *('mesh.', 'teacher.mesh.', 'teacher.devices', 'processes.'),
  'cache.',  # What a cache holds is compared by its digest.
  'rollout.batch_size',
  # Where and how often the same is computed, and where it lies.
  *('student.attention', 'teacher.attention', 'student.remat'),
  'optimizer.state_memory',
)
# What a mode that does not train may change too.
NOT_TRAINED = (*_OUTPUTS, 'evaluation.')


def check(
  config: ml_collections.ConfigDict,
  workdir: str,
  beside: tuple[str, ...] = _OUTPUTS,
) -> None:
  """Refuses a workdir that holds a run of another config.

  Args:
    config: the config now.
    workdir: the folder.
    beside: beginnings of the paths that may differ.

  Raises:
    ConfigError: lists the fields that differ.
  """
  file = os.path.join(workdir, CONFIG_FILE)
  if not os.path.exists(file):
    return
  with open(file, encoding='utf-8') as f:
    old = json.load(f)
  new = config.to_dict()
  if all(c['teacher']['source'] != 'rollout' for c in (old, new)):
    beside = (*beside, 'rollout.')
  config_lib.refuse_differences(
    old,
    new,
    '--workdir',
    f'{workdir!r} holds a run of another config',
    'a new folder, or the same config to go on with that run',
    beside,
  )
