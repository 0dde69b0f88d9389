"""Sampling settings from the fields of a config."""

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
  """Refuses rows that a mesh does not divide.

  Args:
    batch_size: answers that grow at a time.
    mesh: the devices.
    path: of the field that says how many.
    axes: names the axes of the mesh that rows are split over, for the message.

  Raises:
    ConfigError: names it.
  """
  shards = rules.row_shards(mesh)
  if batch_size % shards:
    raise errors.ConfigError(
      path,
      f'found {batch_size}, which {shards} devices ({axes}) do not divide',
      legal=f'a multiple of {shards}',
    )


def settings(
  fields: Any, stop_strings: tuple[str, ...]
) -> requests.SamplingSettings:
  """Returns the sampling settings that a section of a config declares."""
  return requests.SamplingSettings(
    **{name: fields[name] for name in _NAMES}, stop_strings=stop_strings
  )
