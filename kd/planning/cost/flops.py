"""Computes the floating point operations of a training step by formula.

A product of [m, k] and [k, n] takes 2 m k n operations. Everything else (norms,
softmax, the optimizer) is ignored. For a model of S layers, with T = B L tokens
and P computed query-key pairs per row (P depends on the attention window):

  weights, a layer    2 T D (2 N H + 2 G H + 3 F)
  attention, a layer  4 B P N H               (scores, and sums of values)
  backward            2 x weights; 2 B P N H per product, see Attention
  objective           2 T' D V x 3, and for a teacher 2 T' D_t V

where T' is the number of positions with logits. Embedding lookup takes none.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from kd.models import family
from kd.models.attention import attention
from kd.models.attention import splash

Config = family.Config

# Two for each forward product.
_NEEDED_BACKWARD_PRODUCTS = 4


@dataclasses.dataclass(frozen=True)
class Attention:
  """Describes how attention is computed in one row.

  Attributes:
    pairs: P for each attention window: query-key pairs whose scores are
      computed, including masked pairs of a computed block.
    forward_products: products of P x H multiply-adds per head in the forward
      pass: 2, scores and weighted values.
    backward_products: the same in the backward pass: 4, or 5 if scores are
      recomputed.
  """

  pairs: Mapping[int | None, int]
  forward_products: int
  backward_products: int


def as_computed(config: Config, length: int, kernel: str) -> Attention:
  """Returns the attention products that kd.models computes per row.

  Args:
    config: the model.
    length: L.
    kernel: attention.XLA or attention.SPLASH.
  """
  windows = set(config.windows)
  if kernel == attention.SPLASH:
    block = splash.block_size(length, 1)
    return Attention(
      pairs={w: _pairs(length, w, block) for w in windows},
      forward_products=2,
      backward_products=splash.BACKWARD_PRODUCTS,
    )
  return Attention(
    pairs={w: attention.pairs_computed(length, w) for w in windows},
    forward_products=2,
    backward_products=5 if attention.recomputes_scores(length) else 4,
  )


@dataclasses.dataclass(frozen=True)
class Frozen:
  """The student's parameters without a gradient.

  Gradients of activations are counted in all layers, even below the lowest
  trained parameter.

  Attributes:
    matrices: number of frozen weights in the matrices of all layers.
    unembedding: whether the output embedding is frozen.
  """

  matrices: int
  unembedding: bool


NOTHING_FROZEN = Frozen(0, False)


def _pairs(length, window, block):
  """Counts the pairs of all blocks that are not fully masked."""
  blocks = -(-length // block)
  reach = blocks if window is None else -(-(window - 1) // block) + 1
  computed = sum(min(i + 1, reach) for i in range(blocks))
  return computed * block**2


def _weights(config, tokens):
  return 2 * tokens * config.num_layers * config.layer_matrices


def _attention_product(config, rows, work):
  """Returns operations of one query-key product in every layer."""
  pairs = sum(work.pairs[window] for window in config.windows)
  return 2 * rows * pairs * config.num_heads * config.head_dim


def forward(config: Config, rows: int, length: int, work: Attention) -> int:
  """Returns operations from tokens to final hidden states, without logits.

  Args:
    config: the model.
    rows: B.
    length: L.
    work: how attention is computed.
  """
  product = _attention_product(config, rows, work)
  return _weights(config, rows * length) + work.forward_products * product


def backward(config: Config, rows: int, length: int, work: Attention) -> int:
  """Returns operations of the backward pass, from final hidden states on."""
  product = _attention_product(config, rows, work)
  return 2 * _weights(config, rows * length) + work.backward_products * product


def repeated_scores(config: Config, rows: int, length: int, kernel: str) -> int:
  """Returns the operations of `backward` that recompute scores."""
  work = as_computed(config, length, kernel)
  again = work.backward_products - _NEEDED_BACKWARD_PRODUCTS
  return again * _attention_product(config, rows, work)


def recomputed(
  config: Config, rows: int, length: int, work: Attention, remat: str
) -> int:
  """Returns operations that the backward pass recomputes under a remat policy.

  See transformer.REMAT_POLICIES. 'dots' saves the products with weights, as
  those have no batch axis.
  """
  if remat == 'none':
    return 0
  product = work.forward_products * _attention_product(config, rows, work)
  if remat.startswith('dots'):
    return product
  again = 2 * rows * length * config.num_layers * config.recomputed_matrices
  return again + product


def logits(config: Config, tokens: int, vocab_size: int) -> int:
  """Returns operations of the logits of `tokens` positions."""
  return 2 * tokens * config.embed_dim * vocab_size


def step(
  student: Config,
  teachers: Sequence[Config],
  rows: int,
  length: int,
  remat: str,
  logits_tokens: int,
  kernel: str,
  frozen: Frozen = NOTHING_FROZEN,
) -> dict[str, int]:
  """Returns the operations of a training step with live teachers, by part.

  Args:
    student: the student.
    teachers: the teachers; empty if the objective has no teacher.
    rows: B, over all devices and micro-batches.
    length: L.
    remat: the student's remat policy.
    logits_tokens: T', number of positions with logits: B L minus positions
      without weight or not selected.
    kernel: the attention kernel of all models; see as_computed.
    frozen: the parameters without a gradient.

  Returns:
    Operations by part: 'teacher', 'student_forward', 'student_backward',
    'recomputed' and 'objective'.
  """
  work = as_computed(student, length, kernel)
  shape = rows, length
  return {
    'teacher': sum(
      forward(t, *shape, as_computed(t, length, kernel)) for t in teachers
    ),
    'student_forward': forward(student, *shape, work),
    'student_backward': (
      backward(student, *shape, work) - 2 * rows * length * frozen.matrices
    ),
    'recomputed': recomputed(student, *shape, work, remat),
    'objective': (
      (2 if frozen.unembedding else 3)
      * logits(student, logits_tokens, student.vocab_size)
      + sum(
        logits(t, logits_tokens, min(t.vocab_size, student.vocab_size))
        for t in teachers
      )
    ),
  }
