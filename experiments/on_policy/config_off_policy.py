"""The student 'off_policy' of experiments/on_policy."""

from experiments.on_policy import students


def get_config(arg=''):
  return students.config('off_policy', arg)
