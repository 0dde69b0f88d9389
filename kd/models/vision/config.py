"""Sizes of a vision tower and of its projector."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Sizes of one tower (SigLIP, arXiv 2303.15343), with the projector.

  An image of S x S pixels is cut into patches, which are the tower's positions.
  Its outputs are averaged over squares of patches, and projected to the width
  of the text model as soft tokens.

  Attributes:
    image_size: S, side of an image in pixels.
    patch_size: side of a patch in pixels; divides S.
    embed_dim: E, the width.
    mlp_dim: M.
    num_heads: number of heads, each E / num_heads wide.
    num_layers: number of layers.
    norm_epsilon: added to variances and mean squares in norms.
    tokens_per_side: number of soft tokens along a side of the image; divides
      S / patch_size.
  """

  image_size: int
  patch_size: int
  embed_dim: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  norm_epsilon: float
  tokens_per_side: int

  @property
  def patches_per_side(self) -> int:
    return self.image_size // self.patch_size

  @property
  def patches(self) -> int:
    """The number of positions of the tower: 4,096 as published."""
    return self.patches_per_side**2

  @property
  def soft_tokens(self) -> int:
    """T, the positions that an image takes in the text: 256 as published."""
    return self.tokens_per_side**2

  @property
  def patch_values(self) -> int:
    """The number of values of a patch: its pixels in three colors."""
    return 3 * self.patch_size**2

  @property
  def layer_matrices(self) -> int:
    """The number of weights of one layer that each patch is multiplied by."""
    return self.embed_dim * (4 * self.embed_dim + 2 * self.mlp_dim)

  def parameter_count(self, text_dim: int) -> int:
    """Returns the number of parameters, with a projector to `text_dim`."""
    e, m = self.embed_dim, self.mlp_dim
    biases_and_norms = 4 * e + (m + e) + 4 * e
    layers = self.num_layers * (self.layer_matrices + biases_and_norms)
    embedding = self.patch_values * e + e + self.patches * e
    return embedding + layers + 2 * e + e + e * text_dim


# As published with Gemma 3 from 4B up.
SIGLIP = VisionConfig(
  image_size=896,
  patch_size=14,
  embed_dim=1152,
  mlp_dim=4304,
  num_heads=16,
  num_layers=27,
  norm_epsilon=1e-6,
  tokens_per_side=16,
)
