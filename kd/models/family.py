"""The protocol of a model family: its sizes, its model, and its files.

A family is a folder of this package, such as kd/models/gemma3, where
`family.py` defines `FAMILY`, a Family; `variants.py` its sizes by name;
`chat_template.py` `TEMPLATES`, its chat templates by name. One line of
kd/models/families.py registers it. Code outside the folder asks a Config, a
Model or the Family, and knows no parameter, key or file name of its own.
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

  Two models are equal, and share compiled programs, if their attributes are.

  Attributes:
    config: its sizes.
    dtype: data type of activations; parameters may have another.
    remat: a name of transformer.REMAT_POLICIES.
    kernel: what computes attention within rows, see attention.causal.
    embedding_scale: input embeddings are multiplied by it; None: they are not
      scaled.
  """

  config: Config
  dtype: jax.numpy.dtype
  remat: str
  kernel: str
  embedding_scale: float | None

  def clone(self, **changes: Any) -> 'Model':
    """Returns a copy with other attributes; resolve sets the kernel so."""

  def forward(
    self,
    params: types.PyTree,
    batch: types.Batch,
    spec: types.TapSpec,
    layer_weights: Array | None = None,
  ) -> tuple[Array, types.Taps]:
    """Runs whole rows; training, teachers and evaluation call it.

    Args:
      params: the parameters.
      batch: rows of [B, L].
      spec: the layers whose outputs or heads are returned too; static.
      layer_weights: float32 [S, B], factors of what layers add; None: 1.

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
    """Returns random float32 parameters, for `init` random."""

  def abstract_params(self) -> types.PyTree:
    """Returns the shape and type of each parameter; computes nothing."""

  def logical_axes(self) -> types.PyTree:
    """Returns each parameter's PartitionSpec of names in partitioning.rules."""

  def is_frozen(self, path: str) -> bool:
    """Returns whether a parameter such as layers.3.mlp.gate never changes."""

  @property
  def representation(self) -> dict[str, Any]:
    """How values are rounded and `core` is wrapped, as JSON; {} if neither."""

  @property
  def core(self) -> 'Model':
    """The model whose layers run: itself, unless it wraps another."""

  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters of `core`; matrices may be computed.Computed."""

  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns parameters from those of `core`; `rng` is for what it adds."""

  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters of one training step, which drops some inputs."""

  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters of `core` with the same outputs, for export."""

  def decoding_weights(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters as `extend` reads them, converted once.

    The result has an attribute `unembedding` [V, D], an array or an Operand,
    as `matmul.logits` takes it. kd/sampling calls this and the methods below.
    """

  def empty_cache(self, batch: int, slots: int) -> types.PyTree:
    """Returns a KV cache with room for `slots` positions in each row.

    Each of its arrays has rows first, then slots.
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
      params: the parameters, as training has them.
      tokens: int32 [B, L], padded on the right.
      lengths: int32 [B], 0 to L, number of tokens of each row.
      images: the prompts' images; None without.

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
      held: from decoding_weights.
      cache: of all earlier positions.
      ids: int32 [B].
      positions: int32 [B], their positions in their rows.

    Returns:
      [B, D], hidden states after the final norm, and the cache with them.
    """


class Family(abc.ABC):
  """A model family: what is asked without a model's parameters.

  Attributes:
    title: its name in messages.
    config_type: its Config.
    chat_template: the name, in the family's chat_template.py, of the template
      that its instruction-tuned models were trained with.
    hf_model_types: values of `model_type` in config.json that are its models.
    gguf_architecture: value of `general.architecture` in its GGUF files.
    gguf_lists: keys of lists in their metadata that are read; others, such as
      vocabularies, are skipped.
    license: the license of its published models, by its name on the hub.
    notice: what must accompany a model that is made from them; '' for nothing.
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
    layer come first, the input embedding before all; then those of each layer
    in turn, in one order.
    """

  @abc.abstractmethod
  def config_from_hf(self, raw: Mapping[str, Any], file: str) -> Config:
    """Converts the contents of a config.json.

    Args:
      raw: the JSON object, whose model_type is one of hf_model_types.
      file: its path, for messages.

    Raises:
      ConfigError: a key is missing, wrong, or asks for what the family lacks.
    """

  @abc.abstractmethod
  def config_to_hf(self, config: Config) -> dict[str, Any]:
    """Returns the keys of config.json that describe the model, for export."""

  def hf_processor(self, config: Config) -> dict[str, dict[str, Any]]:
    """Returns the files of an exported folder that say how images are read.

    Returns:
      JSON values by the file's name; {} for a model without a vision tower.
    """
    del config
    return {}

  def hf_text_module(self, model_type: str) -> str:
    """Returns the path of the layers' parent in the class of a model_type."""
    del model_type
    return 'model'

  def hf_key(self, key: str, with_vision: bool) -> str | None:
    """Returns the tensor's name in `tensors` of a key of a safetensors file.

    Args:
      key: as the file has it.
      with_vision: whether the vision tower is read.

    Returns:
      The name; the key itself if it is no tensor of the family; None if it is
      to be left out: a tensor of a vision tower that is not read.
    """
    del with_vision
    return key

  def hf_file_key(self, config: Config, key: str) -> str:
    """Returns the key of an exported file for a tensor's name in `tensors`."""
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
      ConfigError: a field is missing, wrong, or asks for what the family lacks.
    """

  @abc.abstractmethod
  def config_to_gguf(self, config: Config) -> dict[str, Any]:
    """Returns the fields of a GGUF header that describe the model, for export.

    Returns:
      Values by key without the architecture.
    """

  def vision_to_gguf(self, config: Config) -> dict[str, Any]:
    """Returns the metadata of a file of the vision tower that `config` has."""
    raise NotImplementedError(f'{self.title} has no vision tower')

  def vision_from_gguf(
    self, metadata: Mapping[str, Any], shapes: Shapes, file: str
  ) -> tuple[vision_config.VisionConfig, int]:
    """Converts the header of llama.cpp's file of a vision tower.

    Args:
      metadata: its fields.
      shapes: each tensor's shape by name, outermost dimension first.
      file: its path, for messages.

    Returns:
      The tower's sizes, and the width of the text model.

    Raises:
      ConfigError: it is no tower of the family, or a field is wrong.
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
    """Converts a parameter to the array that a GGUF file holds, for export.

    Args:
      config: the model.
      tensor: the parameter, an entry of `tensors`.
      array: its float32 values, of tensor.shape.
    """
    del config
    return tensor.to_file(array, tensors_lib.GGUF)

  def gguf_note(self, config: Config) -> str:
    """Says which versions of llama.cpp read an exported model, '' if all do."""
    del config
    return ''

  def hf_problem(self, config: Config) -> str:
    """Says why transformers refuses the model's sizes, '' if it does not."""
    del config
    return ''

  def export_warning(self, config: Config, source: Config | None) -> str:
    """Says which programs cannot load an exported model, '' if all can.

    Args:
      config: the model.
      source: the larger model whose layers it keeps, if any.
    """
    del config, source
    return ''
