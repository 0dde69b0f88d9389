"""The search for the paths that the students of experiments/game24 learn."""

from experiments.game24 import students


def get_config():
  return students.config('paths')
