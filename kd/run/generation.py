"""Loads the student in the representation that generation uses."""

from kd.core import types
from kd.models import families
from kd.models import tensors as tensors_lib
from kd.quantization import quantized_model
from kd.quantization import rules
from kd.quantization import running_ranges
from kd.run import conversions
from kd.run import load_params
from kd.run import outputs
from kd.run import resolved


def student(run: resolved.Run) -> resolved.Model:
  """Returns the student, quantized as in `generate.quantize`.

  Raises:
    ConfigError: as for rules.scheme_of.
  """
  model, fields = run.student, run.config.generate.quantize.to_dict()
  schemes = rules.scheme_of(
    model.config, {**fields, 'rules': {}}, 'generate.quantize'
  )
  if not schemes:
    return model
  stored = quantized_model.StoredModel(model.module.core, schemes, 'float32')
  if isinstance(model.module, running_ranges.RunningRangesModel):
    stored = running_ranges.RunningRangesModel(stored)
  return load_params.with_module(model, stored)


def params(
  run: resolved.Run, model: resolved.Model, workdir: str
) -> types.PyTree:
  """Reads the parameters of the workdir's checkpoint, or else student.init.

  Args:
    run: the resolved config.
    model: the model, from `student`.
    workdir: a folder that may contain a run.

  Raises:
    ConfigError: as for outputs.student_params.
  """
  trained = run.student
  if model is trained:
    return outputs.student_params(run, workdir)
  is_plain = trained.module.core is trained.module
  if is_plain and not outputs.has_checkpoint(workdir):
    # Files are read one parameter at a time.
    return load_params.load(model, run.config.seed, 'student.init', None)
  full = outputs.student_params(run, workdir)
  module = model.module
  if isinstance(module, running_ranges.RunningRangesModel):
    module = module.inner
  plain = load_params.plain(trained, full)
  few_bits = conversions.stored(module, plain, model.shardings)
  return running_ranges.carried(full, few_bits)


def cast_matrices(model: resolved.Model, params: types.PyTree) -> types.PyTree:
  """Casts matrices to the data type in which sampling multiplies.

  They are then not cast again for each prompt, and prefill and decoding share
  one copy of the embedding.

  Args:
    model: the model to sample from.
    params: parameters of the model; matrices of another data type are deleted.
  """
  if model.module.core is not model.module:  # Its matrices are computed.
    return params
  tensors = families.of(model.config).tensors(model.config)
  matrices = {matrix.path for matrix in tensors_lib.matrices(tensors)}
  dtype = model.module.dtype
  return conversions.convert_each(
    params, lambda keys, x: x.astype(dtype) if keys in matrices else x
  )
