"""Timed program for a step of Tunix's Gemma 3 with its LogitStrategy.

The argument is a JSON object:
  student, teacher: arguments of Tunix's ModelConfig, except for types.
  tokens: token ids, rows of equal length.
"""

import json
import sys

from benchmarks import stepper


def main(argument):
  stream = stepper.claim_stdout()
  from flax import nnx
  import jax
  import jax.numpy as jnp
  import optax
  from tunix.distillation.strategies import logit
  from tunix.models.gemma3 import model as gemma3

  spec = json.loads(argument)
  tokens = jnp.asarray(spec['tokens'])
  mask = jnp.ones(tokens.shape, bool)
  build = lambda name, seed: gemma3.Gemma3(
    gemma3.ModelConfig(param_dtype=jnp.float32, **spec[name]),
    rngs=nnx.Rngs(seed),
  )
  vocab_size = spec['student']['num_embed']

  def logits(model, input_tokens, input_mask):
    length = input_tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
    seen = jnp.tril(jnp.ones((length, length), bool)) & input_mask[:, None]
    return model(input_tokens, positions, None, seen)[0]

  strategy = logit.LogitStrategy(
    logits,
    logits,
    lambda input_tokens, input_mask: jax.nn.one_hot(
      jnp.roll(input_tokens, -1, axis=1), vocab_size
    ),
    temperature=1.0,
    alpha=1.0,
  )

  with jax.set_mesh(jax.make_mesh((1, 1), ('fsdp', 'tp'))):
    student, teacher = build('student', 0), build('teacher', 1)
    optimizer = nnx.Optimizer(
      student,
      optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4)),
      wrt=nnx.Param,
    )
    score = nnx.jit(logits)

    @nnx.jit
    def update(student, optimizer, tokens, mask, wanted):
      inputs = {'input_tokens': tokens, 'input_mask': mask}
      loss = lambda model: strategy.get_train_loss(model, wanted, inputs)
      (value, _), gradient = nnx.value_and_grad(loss, has_aux=True)(student)
      optimizer.update(student, gradient)
      return value

    def step():
      wanted = score(teacher, tokens, mask)
      update(student, optimizer, tokens, mask, wanted).block_until_ready()

    count = lambda model: sum(
      x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))
    )
    facts = {'parameters': [count(student), count(teacher)]}
    stepper.serve(stream, step, facts)


if __name__ == '__main__':
  main(sys.argv[1])
