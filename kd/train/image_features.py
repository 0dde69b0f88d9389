"""Computes a frozen vision tower's features of training images once."""

from collections.abc import Collection, Iterable, Sequence
import os
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from kd.core import errors
from kd.core import identity
from kd.core import paths
from kd.core import progress
from kd.core import types
from kd.images import features
from kd.images import form as form_lib
from kd.input_pipeline import image_rows
from kd.input_pipeline import image_tokens
from kd.input_pipeline import prepare as prepare_lib
from kd.input_pipeline import rows as rows_lib
from kd.models.vision import config as vision_config
from kd.models.vision import vision
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import placement
from kd.partitioning import rules
from kd.run import resolved
from kd.run import towers
from kd.teachers import live
from kd.teachers import param_digest

_FILE_BYTES = 64 * 2**20
# A network file system may show another machine's new file with a delay.
_SEEN_AFTER_S = 60.0


class Encoder:
  """Encodes images with a frozen tower."""

  def __init__(
    self,
    config: vision_config.VisionConfig,
    dtype: Any,
    params: types.PyTree,
    batch_size: int,
  ):
    """Wraps the parameters.

    Args:
      config: config of the tower.
      dtype: data type of activations.
      params: parameters of the tower, on the devices of a mesh.
      batch_size: number of images per batch.
    """
    self.config, self._params = config, params
    self._dtype, self.batch_size = dtype, batch_size
    self._mesh = jax.tree.leaves(params)[0].sharding.mesh

    @jax.jit
    def encode(params, pixels):
      made = vision.features(config, dtype, params, pixels)
      return made.astype(jnp.float32)

    self._encode = encode

  @property
  def digest(self) -> str:
    """A digest of the parameters, data type and config."""
    named = [param_digest.of(self._params), str(jnp.dtype(self._dtype))]
    return identity.digest([*named, str(self.config)])

  def __call__(self, pixels: np.ndarray) -> np.ndarray:
    """Encodes images.

    Args:
      pixels: uint8 [n, S, S, 3], n at most `batch_size`.

    Returns:
      float32 [n, T, E].
    """
    count = len(pixels)
    whole = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
    whole[:count] = pixels
    placed = placement.place(whole, self._mesh, self.batch_size)
    with rules.active(self._mesh):
      return jax.device_get(self._encode(self._params, placed))[:count]


def fill(
  store: features.Store,
  slots: Iterable[image_tokens.Slot],
  tower: Encoder,
  say: progress.Say,
  part: tuple[int, int] = (0, 1),
) -> set[str]:
  """Computes features of the images that a store lacks.

  Args:
    store: store of this tower's features.
    slots: the images; repeated ones are encoded once.
    tower: encoder of the images.
    say: function that prints a line.
    part: (i, n), to encode only the i-th of every n images.

  Returns:
    The keys of all distinct images.
  """
  config = tower.config
  size = store.record_bytes
  per_file = max(tower.batch_size, _FILE_BYTES // size)
  seen, keys, waiting, values = set(), [], [], []

  def encode():
    values.append(tower(image_rows.decoded(waiting, config.image_size)))
    task.add(len(waiting))
    waiting.clear()

  def write():
    store.add(keys, np.concatenate(values))
    keys.clear()
    values.clear()

  with progress.Progress('the tower on images', say, unit='images') as task:
    for slot in slots:
      key = features.key(slot.data, slot.crop)
      is_new = key not in seen
      is_own = len(seen) % part[1] == part[0]
      seen.add(key)
      if not is_new or not is_own or key in store:
        continue
      keys.append(key)
      waiting.append(slot)
      if len(waiting) == tower.batch_size:
        encode()
      if len(keys) >= per_file and not waiting:
        write()
    if waiting:
      encode()
    if keys:
      write()
  return seen


class Reader:
  """Reads the features of rows' images from a store; see rows.ReadImages."""

  def __init__(self, store: features.Store):
    """Wraps a store that has the features of all images."""
    self._store = store

  def __call__(
    self,
    tokens: np.ndarray,
    rows: Sequence[image_rows.Slots],
    form: form_lib.Form,
  ) -> types.Images:
    """Returns images with features in place of pixels."""
    store, per_image = self._store, form.tokens
    shape = len(rows), form.per_row * per_image, store.width
    made = np.zeros(shape, ml_dtypes.bfloat16)
    for row, slots in zip(made, rows, strict=True):
      for number, slot in enumerate(slots):
        begin = number * per_image
        key = features.key(slot.data, slot.crop)
        row[begin : begin + per_image] = store.read(key)
    return types.Images(None, form.index(tokens), made)


def _on_own_devices(
  params: types.PyTree,
) -> tuple[types.PyTree, tuple[int, int], int]:
  """Returns a tower that this process can run independently.

  Args:
    params: parameters on the devices of all processes.

  Returns:
    The parameters, (index of this process, number of processes), and the number
    of devices that share a batch. A single process gets the parameters as they
    are; with several, each gets a copy on each of its devices.
  """
  mesh = jax.tree.leaves(params)[0].sharding.mesh
  count = jax.process_count()
  if count == 1:
    return params, (0, 1), rules.row_shards(mesh)
  devices = jax.local_devices()
  own = rules.replicated(mesh_lib.make({}, devices))
  spread = jax.jit(lambda x: x, out_shardings=rules.replicated(mesh))

  def copied(x):
    shards = [shard.data for shard in spread(x).addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, own, shards)

  part = jax.process_index(), count
  return jax.tree.map(copied, params), part, len(devices)


def _read_others(store: features.Store, keys: Collection[str]) -> None:
  """Waits until the features of other processes can be read.

  Raises:
    ConfigError: the processes do not share the folder.
  """
  ends = time.monotonic() + _SEEN_AFTER_S
  store.refresh()
  while missing := sum(key not in store for key in keys):
    if time.monotonic() > ends:
      raise errors.ConfigError(
        'data.images.features_folder',
        f'process {jax.process_index()} does not see {missing:,} of '
        f'{len(keys):,} images, which other processes have written',
        legal='a folder that all processes share, or one in a bucket',
      )
    time.sleep(1)
    store.refresh()


def image_reader(
  run: resolved.Run,
  prepared: Sequence[prepare_lib.Prepared],
  teachers: Sequence[live.Teacher],
  say: progress.Say,
) -> rows_lib.ReadImages:
  """Returns the function that reads the images of training rows.

  Encodes images whose features `data.images.features_folder` lacks.

  Args:
    run: the resolved config, accepted by model_checks.check_features.
    prepared: the rows of each task of the mixture.
    teachers: the live teachers.
    say: function that prints a line.

  Raises:
    ConfigError: a file of the folder is damaged, or processes do not share it.
  """
  settings = run.config.data.images
  if settings.features == features.NONE:
    return image_rows.read
  if teachers:
    model, params = run.teacher, teachers[0].params['vision']['tower']
  else:
    model, params = run.student, towers.load_tower(run.student)
  config = model.config.vision
  params, part, devices = _on_own_devices(params)
  # Each process encodes its share of a batch, split equally over its devices.
  batch_size = -(-run.config.data.batch_size // (part[1] * devices)) * devices
  tower = Encoder(config, model.module.dtype, params, batch_size)
  folder = os.path.join(
    paths.expand_sparse(settings.features_folder),
    f'{tower.digest}-{settings.features}',
  )
  store = features.Store(
    folder, settings.features, config.soft_tokens, config.embed_dim
  )
  slots = (slot for part in prepared for slot in rows_lib.images(part))
  before = len(store)
  keys = fill(store, slots, tower, say, part)
  if part[1] > 1:
    multihost_utils.sync_global_devices('kd/features')
    _read_others(store, keys)
  size, count = store.record_bytes, len(keys)
  say(
    f'features of {count:,} images in {folder}: {len(store) - before:,} '
    f'computed now, {size * count / 1e6:,.3g} MB in {store.kind}, relative '
    f'error {store.relative_error:.2g}'
  )
  return Reader(store)
