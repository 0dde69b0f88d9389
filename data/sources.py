"""Finds the files outside the repository that the tasks read."""

import os


def gsm8k_folder() -> str | None:
  """Returns `$KD_DATA_DIR/gsm8k` if it contains train.jsonl, else None."""
  if 'KD_DATA_DIR' not in os.environ:
    return None
  folder = os.path.join(os.path.expanduser(os.environ['KD_DATA_DIR']), 'gsm8k')
  present = os.path.isfile(os.path.join(folder, 'train.jsonl'))
  return folder if present else None


def gsm8k_files() -> dict[str, str]:
  """Returns local paths of GSM8K by file name; {} if it must be downloaded."""
  folder = gsm8k_folder()
  if folder is None:
    return {}
  names = ('train.jsonl', 'test.jsonl')
  paths = {name: os.path.join(folder, name) for name in names}
  return {name: path for name, path in paths.items() if os.path.isfile(path)}


def traces() -> str | None:
  """Returns `$KD_TRACES` if there is such a file, else None."""
  path = os.path.expanduser(os.environ.get('KD_TRACES', ''))
  return path if os.path.isfile(path) else None
