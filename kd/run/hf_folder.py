"""Writes a model and the run's tokenizer as a Hugging Face folder."""

from collections.abc import Callable

from kd.checkpoints import huggingface
from kd.core import types
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.models import family
from kd.run import resolved


def write(
  folder: str,
  run: resolved.Run,
  params: types.PyTree,
  config: family.Config,
  write_more: Callable[[str], None] = lambda new: None,
) -> None:
  """Writes a folder that transformers and vLLM load; see huggingface.write.

  Args:
    folder: the folder to write; an existing one is replaced.
    run: the run with the tokenizer, the chat template and export.dtype.
    params: plain parameters.
    config: config of the model.
    write_more: function that is called last with the new folder.
  """
  tokenizer = run.tokenizer

  def write_tokenizer(new):
    template = templates.TEMPLATES[run.config.data.template]
    has_images = bool(config.vision and tokenizer.image_ids)
    hf_tokenizer.write(tokenizer, new, template.jinja, has_images)
    write_more(new)

  huggingface.write(
    folder,
    params,
    config,
    run.config.export.dtype,
    tokenizer.bos_id,
    tokenizer.stop_ids,
    tokenizer.pad_id,
    write_tokenizer,
    image_ids=tokenizer.image_ids,
  )
