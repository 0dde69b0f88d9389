"""Writes the student for other systems: config, weights, tokenizer."""

from collections.abc import Callable
import os

import jax
import ml_collections

from kd.checkpoints import gguf_writer
from kd.checkpoints import huggingface
from kd.core import types
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.models import families
from kd.run import outputs
from kd.run import resolved
from kd.run import session

Write = Callable[[types.PyTree], None]


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes <workdir>/export/hf and <workdir>/export/gguf: export.formats."""
  run = session.open_trained(config, workdir)
  # All are asked before the weights are read, which may take minutes.
  writers = [
    FORMATS[name](run, workdir)
    for name in dict.fromkeys(run.config.export.formats)
  ]
  params = outputs.student_params(run, workdir)
  for write in writers:
    write(params)


def _hf(run: resolved.Run, workdir: str) -> Write:
  """Returns what writes the Hugging Face folder."""
  folder = os.path.join(workdir, 'export', 'hf')
  tokenizer, template = run.tokenizer, run.config.data.template
  hf_tokenizer.check(tokenizer, 'data.tokenizer')

  def write(params):
    huggingface.write(
      folder,
      params,
      run.student.config,
      run.config.export.dtype,
      tokenizer.bos_id,
      tokenizer.stop_ids,
      tokenizer.pad_id,
      lambda new: hf_tokenizer.write(
        tokenizer, new, templates.TEMPLATES[template].jinja
      ),
    )
    source = run.student.source if run.student.keep_layers else None
    warning = families.of(run.student.config).export_warning(
      run.student.config, source
    )
    if warning:
      session.say(f'warning: {warning}')
    _say_written(folder)

  return write


def _gguf(run: resolved.Run, workdir: str) -> Write:
  """Returns what writes a GGUF file for each type."""
  c, config = run.config.export, run.student.config
  folder = os.path.join(workdir, 'export', 'gguf')
  kinds = {
    kind: gguf_writer.embedding_type(c.gguf_embedding_type, kind)
    for kind in c.gguf_type
  }
  for kind, table_kind in kinds.items():
    gguf_writer.check(config, kind, table_kind, 'export.gguf_type')
  metadata = gguf_tokenizers.fields(
    run.tokenizer,
    config.vocab_size,
    run.config.data.template,
    'data.tokenizer',
  )
  name = os.path.basename(os.path.abspath(workdir))
  metadata = {'general.name': name, **metadata}

  def write(params):
    if jax.process_index() == 0:
      os.makedirs(folder, exist_ok=True)
    for kind, table_kind in kinds.items():
      path = os.path.join(folder, f'model-{kind}.gguf')
      gguf_writer.write(path, params, config, kind, table_kind, metadata)
    note = families.of(config).gguf_note(config)
    if note:
      session.say(f'note: {note}')
    _say_written(folder)

  return write


def _say_written(folder: str) -> None:
  if jax.process_index() == 0:
    session.say(f'wrote {folder}: {", ".join(sorted(os.listdir(folder)))}')


FORMATS = {'hf': _hf, 'gguf': _gguf}
