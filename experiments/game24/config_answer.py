"""The student that learns only expressions."""

from experiments.game24 import students


def get_config():
  return students.config('answer')
