"""The origin names the first layer with a nonfinite output."""

from kd.models import families
from kd.models import model_cases
from kd.train import nonfinite_origin


def test_the_layer_whose_output_overflows_is_named():
  model = families.build(model_cases.CONFIG, 'float32', 'none', 'student')
  params = model_cases.random_params(model.abstract_params())
  batch = model_cases.batch()
  assert nonfinite_origin.bad_layers(model, params, batch) == ()
  # Layers 1 and 3 are stacked; the products of layer 3 overflow float32.
  norm = params['pattern']['layer_1']['post_mlp_norm']
  norm['scale'][1] = 3e38
  for parts in (1, len(batch.tokens)):
    layers = nonfinite_origin.bad_layers(model, params, batch, parts)
    assert layers == (3, 4)
  origin = nonfinite_origin.Origin(step=7, layers=(3, 4))
  assert origin.text == (
    'not finite: the output of layer 3, the first of 2 layers, at step 7'
  )
