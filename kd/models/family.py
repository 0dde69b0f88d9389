"""The protocol of a model family: its sizes, its model, and its files.

A family is a folder of this package, such as kd/models/gemma3, in which
`family.py` defines `FAMILY`, a Family; `variants.py` its sizes by name; and
`chat_template.py` `TEMPLATES`, its chat templates by name. One line of
kd/models/families.py registers it. Code outside the folder uses its Config,
Model and Family, and contains none of its parameter names, keys or file names.
"""

import abc
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from kd.core import types
from kd.models import model_config
from kd.models import tensors as tensors_lib
from kd.models.vision import config as vision_config

Array = types.Array
Shapes = Mapping[str, tuple[int, ...]]


# Part of the protocol.
Config = model_config.Config


class Model(Protocol):
  """A model without its parameters; kd/models/transformer.py implements it.

  Models with equal attributes are equal and share compiled programs.

  Attributes:
    config: its sizes.
    dtype: data type of activations; parameters may have another.
    remat: a name of transformer.REMAT_POLICIES.
    kernel: kernel of attention within rows, see attention.causal.
    embedding_scale: multiplier of input embeddings; None without scaling.
  """

  config: Config
  dtype: jax.numpy.dtype
  remat: str
  kernel: str
  embedding_scale: float | None

  def clone(self, **changes: Any) -> 'Model':
    """Returns a copy with other attributes, such as the kernel."""

  def forward(
    self,
    params: types.PyTree,
    batch: types.Batch,
    spec: types.TapSpec,
    layer_weights: Array | None = None,
  ) -> tuple[Array, types.Taps]:
    """Runs whole rows, in training, teachers and evaluation.

    Args:
      params: the parameters.
      batch: rows of [B, L].
      spec: the layers whose outputs or heads are also returned; static.
      layer_weights: float32 [S, B], multipliers of the layers' updates; None
        for 1.

    Returns:
      Hidden states after the final norm [B, L, D], and the taps in spec's
      order.
    """

  def unembedding(self, params: types.PyTree) -> Array:
    """Returns the output embedding [V, D].

    Logits are `hidden @ unembedding.T`. Losses and sampling compute them in
    pieces, since [B, L, V] does not fit in memory.
    """

  def init_params(self, rng: Array) -> types.PyTree:
    """Returns random float32 parameters."""

  def abstract_params(self) -> types.PyTree:
    """Returns the shape and type of each parameter; computes nothing."""

  def logical_axes(self) -> types.PyTree:
    """Returns PartitionSpecs with the axis names of partitioning.rules."""

  def is_frozen(self, path: str) -> bool:
    """Returns whether a parameter, e.g. layers.3.mlp.gate, is not trained."""

  @property
  def representation(self) -> dict[str, Any]:
    """The rounding of values and the wrappers of `core`, as JSON, or {}."""

  @property
  def core(self) -> 'Model':
    """The innermost model: itself, unless it wraps another."""

  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters of `core`; matrices may be computed.Computed."""

  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns parameters from those of `core`; `rng` is for added ones."""

  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters of one training step, with dropout of inputs."""

  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters of `core` with the same outputs, for export."""

  def decoding_weights(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters in the form that `extend` uses.

    The result has an attribute `unembedding` [V, D], an array or an Operand,
    for `matmul.logits`. kd/sampling calls this and the methods below.
    """

  def empty_cache(self, batch: int, slots: int) -> types.PyTree:
    """Returns an empty KV cache for `slots` positions in each row.

    The first two axes of its arrays are rows and slots.
    """

  def prefill(
    self,
    params: types.PyTree,
    tokens: Array,
    lengths: Array,
    images: types.Images | None = None,
  ) -> tuple[Array, types.PyTree]:
    """Computes the hidden states and the cache of prompts.

    Args:
      params: the parameters, in the form of training.
      tokens: int32 [B, L], padded on the right.
      lengths: int32 [B], 0 to L, number of tokens of each row.
      images: the prompts' images, or None.

    Returns:
      [B, L, D], hidden states after the final norm, and a cache with L slots.
    """

  def extend(
    self,
    held: types.PyTree,
    cache: types.PyTree,
    ids: Array,
    positions: Array,
  ) -> tuple[Array, types.PyTree]:
    """Computes hidden states of the next token of each row.

    Args:
      held: the result of decoding_weights.
      cache: cache of all earlier positions.
      ids: int32 [B].
      positions: int32 [B], positions of the ids in their rows.

    Returns:
      [B, D], hidden states after the final norm, and the updated cache.
    """


class Family(abc.ABC):
  """A model family: all functions that need no parameters.

  Attributes:
    title: its name in messages.
    config_type: its Config.
    chat_template: the name, in the family's chat_template.py, of the template
      that its instruction-tuned models were trained with.
    hf_model_types: values of `model_type` in config.json of its models.
    gguf_architecture: value of `general.architecture` in its GGUF files.
    gguf_lists: keys of lists in their metadata that are read; others, such as
      vocabularies, are skipped.
    license: the license of its published models, by its name on the hub.
    notice: notice that must accompany derived models; '' without one.
    reads_images: whether its models may have a vision tower.
  """

  title: str
  config_type: type[Config]
  chat_template: str
  hf_model_types: tuple[str, ...]
  gguf_architecture: str
  gguf_lists: tuple[str, ...] = ()
  license: str
  notice: str = ''
  reads_images: bool = False

  def variant(self, fields: Mapping[str, Any]) -> Config:
    """Returns the model that an entry of its variants.py describes."""
    return self.config_type(**fields)

  @abc.abstractmethod
  def build(self, config: Config, dtype: jax.numpy.dtype, remat: str) -> Model:
    """Returns the model; families.build has checked the arguments."""

  @abc.abstractmethod
  def tensors(self, config: Config) -> list[tensors_lib.Tensor]:
    """Returns every tensor of a file, and the parameter that it belongs to.

    Import, export, `keep_layers` and pruning use it. Tensors that belong to no
    layer come first, starting with the input embedding, followed by those of
    each layer, always in the same order.
    """

  @abc.abstractmethod
  def config_from_hf(self, raw: Mapping[str, Any], file: str) -> Config:
    """Converts the contents of a config.json.

    Args:
      raw: the JSON object, whose model_type is one of hf_model_types.
      file: its path, for messages.

    Raises:
      ConfigError: a key is missing, wrong or not supported by the family.
    """

  @abc.abstractmethod
  def config_to_hf(self, config: Config) -> dict[str, Any]:
    """Returns the keys of config.json that describe the model, for export."""

  def hf_processor(self, config: Config) -> dict[str, dict[str, Any]]:
    """Returns the files of an exported folder that configure preprocessing.

    Returns:
      JSON values by the file's name; {} for a model without a vision tower.
    """
    del config
    return {}

  def hf_text_module(self, model_type: str) -> str:
    """Returns the path of the layers' parent module for a model_type."""
    del model_type
    return 'model'

  def hf_key(self, key: str, with_vision: bool) -> str | None:
    """Converts a key of a safetensors file to the tensor's name in `tensors`.

    Args:
      key: the key in the file.
      with_vision: whether the vision tower is loaded.

    Returns:
      The name; the key itself if it is not a tensor of the family; None for a
      tensor of a vision tower that is not loaded.
    """
    del with_vision
    return key

  def hf_file_key(self, config: Config, key: str) -> str:
    """Converts a tensor's name in `tensors` to the key of an exported file."""
    del config
    return key

  @abc.abstractmethod
  def config_from_gguf(
    self,
    metadata: Mapping[str, Any],
    shapes: Shapes,
    file: str,
  ) -> Config:
    """Converts the header of a GGUF file.

    Args:
      metadata: its fields; general.architecture is gguf_architecture.
      shapes: each tensor's shape by name, outermost dimension first.
      file: its path, for messages.

    Raises:
      ConfigError: a field is missing, wrong or not supported by the family.
    """

  @abc.abstractmethod
  def config_to_gguf(self, config: Config) -> dict[str, Any]:
    """Returns the fields of a GGUF header that describe the model, for export.

    Returns:
      Values by key, without the prefix of the architecture.
    """

  def vision_to_gguf(self, config: Config) -> dict[str, Any]:
    """Returns the GGUF metadata of the vision tower of `config`."""
    raise NotImplementedError(f'{self.title} has no vision tower')

  def vision_from_gguf(
    self, metadata: Mapping[str, Any], shapes: Shapes, file: str
  ) -> tuple[vision_config.VisionConfig, int]:
    """Converts the header of llama.cpp's vision tower file.

    Args:
      metadata: its fields.
      shapes: each tensor's shape by name, outermost dimension first.
      file: its path, for messages.

    Returns:
      The tower's sizes, and the width of the text model.

    Raises:
      ConfigError: it is not a tower of the family, or a field is wrong.
    """
    raise NotImplementedError(f'{self.title} has no vision tower')

  def vision_tensors(
    self, config: vision_config.VisionConfig, text_dim: int
  ) -> list[tensors_lib.Tensor]:
    """Returns the tensors of a tower and its projector to width `text_dim`."""
    raise NotImplementedError(f'{self.title} has no vision tower')

  def to_gguf(
    self, config: Config, tensor: tensors_lib.Tensor, array: np.ndarray
  ) -> np.ndarray:
    """Converts a parameter to the array in a GGUF file, for export.

    Args:
      config: the model.
      tensor: the parameter, an entry of `tensors`.
      array: its float32 values, in tensor.shape.
    """
    del config
    return tensor.to_file(array, tensors_lib.GGUF)

  def gguf_note(self, config: Config) -> str:
    """Returns a note if some versions of llama.cpp misread the model, or ''."""
    del config
    return ''

  def hf_problem(self, config: Config) -> str:
    """Returns why transformers rejects the model's sizes, or ''."""
    del config
    return ''

  def export_warning(self, config: Config, source: Config | None) -> str:
    """Returns a warning if some programs cannot load the model, or ''.

    Args:
      config: the model.
      source: the larger model that its layers are from, if any.
    """
    del config, source
    return ''
