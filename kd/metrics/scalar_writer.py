"""The base class of writers that write only scalars.

Importing this module imports TensorFlow where it is installed, as clu does.
"""

from clu import metric_writers


class ScalarWriter(metric_writers.MetricWriter):
  """A writer that ignores everything but scalars."""

  def write_summaries(self, step, values, metadata=None):
    del step, values, metadata

  def write_images(self, step, images):
    del step, images

  def write_videos(self, step, videos):
    del step, videos

  def write_audios(self, step, audios, *, sample_rate):
    del step, audios, sample_rate

  def write_texts(self, step, texts):
    del step, texts

  def write_histograms(self, step, arrays, num_buckets=None):
    del step, arrays, num_buckets

  def write_hparams(self, hparams):
    del hparams

  def flush(self):
    pass

  def close(self):
    self.flush()
