"""Wraps models with the adapters and quantization of the config."""

from collections.abc import Mapping
from typing import Any

from kd.models import family
from kd.models import lora
from kd.quantization import quantized_model
from kd.quantization import rules
from kd.quantization import running_ranges
from kd.quantization import schemes as schemes_lib


def student(
  module: family.Model, spec: Mapping[str, Any], path: str
) -> family.Model:
  """Returns the student with adapters, rounded weights, or both.

  Args:
    module: the plain model.
    spec: section `student` of the config.
    path: config path of the section, for messages.

  Raises:
    ConfigError: as for rules.scheme_of.
  """
  config, quantize = module.config, spec['quantize']
  inputs = quantize['activations']
  if (
    inputs != rules.NONE
    and quantize['activation_range'] == schemes_lib.POSITION
  ):
    module = module.clone(round_inputs=schemes_lib.RoundedInputs(inputs))
  adapters = spec['lora']
  if adapters['rank']:
    fields = {'weights': adapters['base_scheme'], 'rules': {}}
    schemes = rules.scheme_of(config, fields, f'{path}.lora')
    base = quantized_model.StoredModel(module, schemes, adapters['base_dtype'])
    module = lora.with_adapters(base, adapters)
  schemes = rules.scheme_of(config, quantize, f'{path}.quantize')
  if schemes:
    module = quantized_model.FakeQuantizedModel(module, schemes)
  if (
    inputs != rules.NONE and quantize['activation_range'] == schemes_lib.RUNNING
  ):
    module = running_ranges.wrapped(module, inputs)
  return module


def teacher(
  module: family.Model, spec: Mapping[str, Any], path: str
) -> family.Model:
  """Returns a teacher, quantized if the config requests it.

  Args:
    module: the plain model.
    spec: section of the teacher in the config.
    path: config path of the section, for messages.

  Raises:
    ConfigError: as for rules.scheme_of.
  """
  schemes = rules.scheme_of(module.config, spec['quantize'], f'{path}.quantize')
  if not schemes:
    return module
  return quantized_model.StoredModel(module, schemes, spec['param_dtype'])
