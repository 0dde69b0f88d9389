"""What is kept of a teacher's distribution, by name."""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import registry
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import sparse_distributions
from kd.teachers import blockwise_topk as blocks_lib

Array = types.Array

METHODS = registry.Registry('method of a cache')


@struct.dataclass
class Seen:
  """What a teacher says of T tokens, whole.

  Attributes:
    hidden: [T, D], its final hidden states, or None for several teachers.
    blocks: of logits [T, V], of ids that count.
    keys: jax.random keys [T], of each token's place in its row and of the row.
  """

  hidden: Array | None
  blocks: blocks_lib.Blocks
  keys: Array


@struct.dataclass
class Kept:
  """What a method keeps of T tokens; None for what it doesn't.

  Attributes:
    ids: int32 [T, K], rising; slots that are not used come last and hold -1.
    logprobs: float32 [T, K], of these ids.
    counts: int32 [T, K], how often each was drawn; 0 if it was not by chance.
    tail_logprob: float32 [T], the log-mass of all other ids.
    hidden: [T, D].
  """

  ids: Array | None
  logprobs: Array | None
  counts: Array | None
  tail_logprob: Array | None
  hidden: Array | None


@dataclasses.dataclass(frozen=True)
class Method:
  """One way to keep a distribution.

  Attributes:
    name: in METHODS.
    stored_as: the type of stored log-probabilities or hidden states.
    entries: K, the most ids of a token; 0: keeps hidden states.
    mass: of the most likely ids that are kept, if fewer than `entries` reach
      it; 1: always `entries`.
    draws: how many ids are drawn of each token, of `entries`; 0: none is.
  """

  name: str
  stored_as: str
  entries: int
  mass: float
  draws: int

  @property
  def exact(self) -> int:
    """How many of the most likely ids are kept, whatever is drawn."""
    return self.entries - self.draws

  @property
  def token_distribution(self) -> type[distributions.TokenDistribution]:
    """The type of the targets, as terms compare them."""
    if not self.entries:
      return dense_distributions.MixtureLogits
    if self.draws:
      return sparse_distributions.Sampled
    return sparse_distributions.TopK

  def sparse(
    self, kept: Kept
  ) -> sparse_distributions.TopK | sparse_distributions.Sampled:
    """Returns kept ids as a distribution.

    Args:
      kept: of a method with entries: numpy or jax arrays, [...] for [T].
    """
    if not self.draws:
      return sparse_distributions.TopK(
        kept.ids, kept.logprobs, kept.tail_logprob
      )
    weights = kept.counts / self.draws
    if self.exact:
      xp = kept.logprobs.__array_namespace__()
      drawn = xp.exp(kept.tail_logprob)[..., None] * weights
      weights = xp.where(kept.counts > 0, drawn, xp.exp(kept.logprobs))
    return sparse_distributions.Sampled(kept.ids, kept.logprobs, weights)

  def keep(self, seen: Seen) -> Kept:
    """Chooses from what the teacher says; to be jitted."""
    if not self.entries:
      return Kept(None, None, None, None, seen.hidden)
    if not self.exact:
      ids, counts = blocks_lib.draw(seen.blocks, seen.keys, self.draws)
      return Kept(ids, _logprobs(seen.blocks, ids), counts, None, None)
    vocab_size = seen.blocks.vocab_size
    if self.draws:
      return self._keep_both(seen, min(self.exact, vocab_size - 1))
    size = min(self.entries, vocab_size)
    ids, found, tail = blocks_lib.most_likely(seen.blocks, size)
    if self.mass < 1:
      before = jnp.cumsum(jnp.exp(found), axis=1) - jnp.exp(found)
      # The most likely id is kept whatever it has.
      kept = (before < self.mass).at[:, 0].set(True)
      rest = jax.nn.logsumexp(jnp.where(kept, -jnp.inf, found), axis=1)
      tail = jnp.logaddexp(tail, rest)
      ids = jnp.where(kept, ids, -1)
    order = _rising(ids)
    ids = jnp.take_along_axis(ids, order, axis=1)
    found = jnp.take_along_axis(found, order, axis=1)
    found = jnp.where(ids < 0, -jnp.inf, found)
    return Kept(ids, found, None, tail, None)

  def _keep_both(self, seen, size):
    """The most likely ids, and draws from the others."""
    likely, _, tail = blocks_lib.most_likely(seen.blocks, size)
    others = blocks_lib.without(seen.blocks, likely)
    drawn, counts = blocks_lib.draw(others, seen.keys, self.draws)
    ids = jnp.concatenate([likely, drawn], axis=1)
    counts = jnp.concatenate([jnp.zeros_like(likely), counts], axis=1)
    order = _rising(ids)
    ids = jnp.take_along_axis(ids, order, axis=1)
    counts = jnp.take_along_axis(counts, order, axis=1)
    return Kept(ids, _logprobs(seen.blocks, ids), counts, tail, None)


def _rising(ids):
  """The order of ids [T, K] in which those below 0 come last."""
  last = jnp.iinfo(ids.dtype).max
  return jnp.argsort(jnp.where(ids < 0, last, ids), axis=1)


def _logprobs(blocks, ids):
  """Log-probabilities of ids [T, N]; -inf for an id below 0."""
  flat = blocks.logits.reshape(ids.shape[0], -1)
  found = jnp.take_along_axis(flat, jnp.maximum(ids, 0), axis=1)
  return jnp.where(ids < 0, -jnp.inf, found - blocks.log_normalizer[:, None])


@METHODS.register('top_k')
def _top_k(*, entries, logprobs):
  """The most likely ids, and the mass of all others as one number."""
  return Method('top_k', logprobs, entries, 1.0, 0)


@METHODS.register('nucleus')
def _nucleus(*, mass, entries, logprobs):
  """The fewest ids with that mass, `entries` at most (arXiv 1904.09751)."""
  return Method('nucleus', logprobs, entries, mass, 0)


@METHODS.register('sampled')
def _sampled(*, draws, logprobs):
  """Ids drawn with replacement and how often each was (arXiv 2503.16870)."""
  return Method('sampled', logprobs, draws, 1.0, draws)


@METHODS.register('stratified')
def _stratified(*, entries, draws, logprobs):
  """The most likely ids as they are, and ids drawn from the others.

  Unbiased as drawn ids are, and with far less noise: of the mass that is kept
  chance has nothing to say.
  """
  return Method('stratified', logprobs, entries + draws, 1.0, draws)


@METHODS.register('hidden')
def _hidden(*, values):
  """The final hidden states, which with the unembedding are all logits."""
  return Method('hidden', values, 0, 1.0, 0)
