"""The student of expressions alone."""

from experiments.game24 import students


def get_config():
  return students.config('answer')
