"""The student that learns steps and their expression."""

from experiments.game24 import students


def get_config():
  return students.config('trace')
