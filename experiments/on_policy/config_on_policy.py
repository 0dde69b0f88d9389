"""The student 'on_policy' of experiments/on_policy."""

from experiments.on_policy import students


def get_config(arg=''):
  return students.config('on_policy', arg)
