"""The student that all others of experiments/on_policy start from."""

from experiments.on_policy import students


def get_config():
  return students.config('start', 'random')
