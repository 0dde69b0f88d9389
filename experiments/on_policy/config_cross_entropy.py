"""The student 'cross_entropy' of experiments/on_policy."""

from experiments.on_policy import students


def get_config(arg=''):
  return students.config('cross_entropy', arg)
