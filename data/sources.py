"""Where the files outside the repository are that the tasks read."""

import os


def gsm8k_folder() -> str | None:
  """`$KD_DATA_DIR/gsm8k` if it holds train.jsonl, else None."""
  if 'KD_DATA_DIR' not in os.environ:
    return None
  folder = os.path.join(os.path.expanduser(os.environ['KD_DATA_DIR']), 'gsm8k')
  present = os.path.isfile(os.path.join(folder, 'train.jsonl'))
  return folder if present else None


def gsm8k_files() -> dict[str, str]:
  """Paths of the local GSM8K files by name; empty if it is to be downloaded."""
  folder = gsm8k_folder()
  if folder is None:
    return {}
  names = ('train.jsonl', 'test.jsonl')
  paths = {name: os.path.join(folder, name) for name in names}
  return {name: path for name, path in paths.items() if os.path.isfile(path)}


def traces() -> str | None:
  """`$KD_TRACES` if there is such a file, else None."""
  path = os.path.expanduser(os.environ.get('KD_TRACES', ''))
  return path if os.path.isfile(path) else None
