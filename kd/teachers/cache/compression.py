"""Methods that compress a teacher's distributions for a cache, by name."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import probability
from kd.core import registry
from kd.core import types
from kd.losses import divergences
from kd.losses import sparse_distributions
from kd.teachers.cache import blockwise_topk as blocks_lib

Array = types.Array

METHODS = registry.Registry('method of a cache')


@struct.dataclass
class TokenOutputs:
  """A teacher's outputs for T tokens.

  Attributes:
    hidden: [T, D], final hidden states; None for several teachers.
    blocks: blocks of the logits [T, V] of the shared vocabulary.
    keys: jax.random keys [T], by row and position in it.
  """

  hidden: Array | None
  blocks: blocks_lib.Blocks
  keys: Array


@struct.dataclass
class Compressed:
  """The compressed outputs for T tokens; None for fields without values.

  Attributes:
    ids: int32 [T, K], increasing, with -1 in unused slots at the end.
    logprobs: float32 [T, K], their log-probabilities.
    counts: int32 [T, K], number of draws of each; 0 for an id that is kept for
      its probability.
    tail_logprob: float32 [T], the log-mass of all ids but the most likely ones.
    hidden: [T, D], final hidden states.
    log_rest: float32 [T], log of the sum of p^(1 / temperature) over the ids
      that may be drawn, if that temperature is not 1.
  """

  ids: Array | None
  logprobs: Array | None
  counts: Array | None
  tail_logprob: Array | None
  hidden: Array | None
  log_rest: Array | None = None


@dataclasses.dataclass(frozen=True)
class Method:
  """A compression method with its settings.

  Attributes:
    name: name in METHODS.
    stored_as: data type of stored log-probabilities or hidden states.
    entries: K, the maximum number of ids per token; 0 to keep hidden states.
    mass: probability up to which the most likely ids are kept, at most
      `entries` of them; 1 to always keep `entries`.
    draws: number of the `entries` that are drawn at random.
    temperature: temperature of the draws.
  """

  name: str
  stored_as: str
  entries: int
  mass: float
  draws: int
  temperature: float = 1.0

  @property
  def is_softened(self) -> bool:
    """Whether ids are drawn at a temperature other than 1."""
    return self.temperature != 1

  @property
  def exact(self) -> int:
    """The number of most likely ids that are always kept."""
    return self.entries - self.draws

  def sparse(
    self, compressed: Compressed
  ) -> sparse_distributions.TopK | sparse_distributions.Sampled:
    """Returns compressed ids as a distribution; the method must have entries.

    Args:
      compressed: numpy or JAX arrays with axes [...] in place of [T].
    """
    if not self.draws:
      return sparse_distributions.TopK(
        compressed.ids, compressed.logprobs, compressed.tail_logprob
      )
    weights = compressed.counts / self.draws
    if self.is_softened:
      return self._softened(compressed, weights)
    if self.exact:
      xp = compressed.logprobs.__array_namespace__()
      drawn = xp.exp(compressed.tail_logprob)[..., None] * weights
      weights = xp.where(
        compressed.counts > 0, drawn, xp.exp(compressed.logprobs)
      )
    return sparse_distributions.Sampled(
      compressed.ids, compressed.logprobs, weights
    )

  def _softened(self, compressed, weights):
    """Returns ids drawn at a temperature, with the normalizer at it."""
    xp = compressed.logprobs.__array_namespace__()
    log_sum = compressed.log_rest
    if self.exact:
      softened = compressed.logprobs / self.temperature
      is_exact = (compressed.counts == 0) & (compressed.ids >= 0)
      of_exact = xp.where(is_exact, xp.exp(softened), 0.0)
      log_sum = xp.logaddexp(log_sum, xp.log(xp.sum(of_exact, axis=-1)))
      drawn = xp.exp(compressed.log_rest - log_sum)[..., None] * weights
      exact = xp.exp(softened - log_sum[..., None])
      weights = xp.where(compressed.counts > 0, drawn, exact)
    return sparse_distributions.Sampled(
      compressed.ids, compressed.logprobs, weights, log_sum, self.temperature
    )

  def check(
    self, name: str, divergence: divergences.Divergence, temperature: Any
  ) -> None:
    """Raises ConfigError if a term cannot be computed from the targets.

    Args:
      name: name of the divergence.
      divergence: the divergence.
      temperature: temperature of the term, a number or a schedule as in the
        config.
    """
    if self.draws:
      sparse_distributions.check_sampled(
        name, divergence, temperature, self.temperature
      )

  def compress(self, outputs: TokenOutputs) -> Compressed:
    """Compresses a teacher's outputs; can be jitted."""
    if not self.entries:
      return Compressed(None, None, None, None, outputs.hidden)
    if not self.exact:
      ids, counts, rest = self._draw(outputs.blocks, outputs)
      logprobs = _logprobs(outputs.blocks, ids)
      return Compressed(ids, logprobs, counts, None, None, rest)
    vocab_size = outputs.blocks.vocab_size
    if self.draws:
      return self._compress_with_draws(outputs, min(self.exact, vocab_size - 1))
    size = min(self.entries, vocab_size)
    ids, logprobs, tail = blocks_lib.most_likely(outputs.blocks, size)
    if self.mass < 1:
      inside = probability.in_sorted_nucleus(jnp.exp(logprobs), self.mass)
      # The most likely id is always kept.
      kept = inside.at[:, 0].set(True)
      rest = jax.nn.logsumexp(jnp.where(kept, -jnp.inf, logprobs), axis=1)
      tail = jnp.logaddexp(tail, rest)
      ids = jnp.where(kept, ids, -1)
    order = _increasing(ids)
    ids = jnp.take_along_axis(ids, order, axis=1)
    logprobs = jnp.take_along_axis(logprobs, order, axis=1)
    logprobs = jnp.where(ids < 0, -jnp.inf, logprobs)
    return Compressed(ids, logprobs, None, tail, None)

  def _compress_with_draws(self, outputs, size):
    """Keeps the most likely ids and draws from all others."""
    likely, _, tail = blocks_lib.most_likely(outputs.blocks, size)
    others = blocks_lib.exclude(outputs.blocks, likely)
    drawn, counts, rest = self._draw(others, outputs)
    ids = jnp.concatenate([likely, drawn], axis=1)
    counts = jnp.concatenate([jnp.zeros_like(likely), counts], axis=1)
    order = _increasing(ids)
    ids = jnp.take_along_axis(ids, order, axis=1)
    counts = jnp.take_along_axis(counts, order, axis=1)
    logprobs = _logprobs(outputs.blocks, ids)
    return Compressed(ids, logprobs, counts, tail, None, rest)

  def _draw(self, among, outputs):
    """Draws ids; returns them, their counts, and Compressed.log_rest."""
    if not self.is_softened:
      return *blocks_lib.draw(among, outputs.keys, self.draws), None
    softened = blocks_lib.soften(among, self.temperature)
    whole = outputs.blocks.log_normalizer / self.temperature
    rest = softened.log_normalizer - whole
    return *blocks_lib.draw(softened, outputs.keys, self.draws), rest


def _increasing(ids):
  """Returns the order that sorts ids [T, K], with those below 0 last."""
  last = jnp.iinfo(ids.dtype).max
  return jnp.argsort(jnp.where(ids < 0, last, ids), axis=1)


def _logprobs(blocks, ids):
  """Returns log-probabilities of ids [T, N]; -inf for an id below 0."""
  flat = blocks.logits.reshape(ids.shape[0], -1)
  logits = jnp.take_along_axis(flat, jnp.maximum(ids, 0), axis=1)
  return jnp.where(ids < 0, -jnp.inf, logits - blocks.log_normalizer[:, None])


@METHODS.register('top_k')
def _top_k(*, entries, logprobs):
  """Keeps the most likely ids and the total mass of all others."""
  return Method('top_k', logprobs, entries, 1.0, 0)


@METHODS.register('nucleus')
def _nucleus(*, mass, entries, logprobs):
  """Keeps the fewest ids with a given mass (arXiv 1904.09751)."""
  return Method('nucleus', logprobs, entries, mass, 0)


@METHODS.register('sampled')
def _sampled(*, draws, logprobs, temperature=1.0):
  """Keeps ids drawn with replacement and their counts (arXiv 2503.16870)."""
  return Method('sampled', logprobs, draws, 1.0, draws, temperature)


@METHODS.register('stratified')
def _stratified(*, entries, draws, logprobs, temperature=1.0):
  """Keeps the most likely ids, and ids drawn from all others.

  Unbiased like `sampled`, with lower variance: only the tail is sampled.
  """
  return Method(
    'stratified', logprobs, entries + draws, 1.0, draws, temperature
  )


@METHODS.register('hidden')
def _hidden(*, values):
  """Keeps final hidden states, from which the unembedding computes logits."""
  return Method('hidden', values, 0, 1.0, 0)
