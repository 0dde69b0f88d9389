"""Reads sampling settings from the fields of a config."""

import dataclasses
from typing import Any

import jax

from kd.core import errors
from kd.partitioning import rules
from kd.sampling import requests

_NAMES = tuple(
  field.name
  for field in dataclasses.fields(requests.SamplingSettings)
  if field.name != 'stop_strings'
)


def check_devices(
  batch_size: int,
  mesh: jax.sharding.Mesh,
  path: str,
  axes: str = 'mesh.data x mesh.fsdp x mesh.pipeline',
) -> None:
  """Checks that the rows can be split evenly over a mesh.

  Args:
    batch_size: number of answers decoded together.
    mesh: the mesh.
    path: name of the field of the batch size.
    axes: names of the mesh axes that rows are split over, for the message.

  Raises:
    ConfigError: they cannot; the error names `path`.
  """
  shards = rules.row_shards(mesh)
  if batch_size % shards:
    raise errors.ConfigError(
      path,
      f'found {batch_size}, which is not divisible by {shards} devices '
      f'({axes})',
      legal=f'a multiple of {shards}',
    )


def settings(
  fields: Any, stop_strings: tuple[str, ...]
) -> requests.SamplingSettings:
  """Returns the sampling settings in a section of a config."""
  return requests.SamplingSettings(
    **{name: fields[name] for name in _NAMES}, stop_strings=stop_strings
  )
