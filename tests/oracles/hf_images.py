"""Oracle: the pixels of images from transformers' Gemma 3 processor.

Usage: python hf_images.py FOLDER OUT.npz SIDE...

Writes, by NAME.SIDE of the folder's files, uint8 [n, SIDE, SIDE, 3]: the image
and its crops of pan and scan.
"""

import os
import sys

import numpy as np
from PIL import Image
from PIL import ImageOps
from transformers.models.gemma3 import image_processing_pil_gemma3


def _pixels(image, side):
  processor = image_processing_pil_gemma3.Gemma3ImageProcessorPil(
    size={'height': side, 'width': side},
    do_rescale=False,
    do_normalize=False,
    do_pan_and_scan=True,
    pan_and_scan_min_crop_size=256,
    pan_and_scan_max_num_crops=4,
    pan_and_scan_min_ratio_to_activate=1.2,
  )
  pixels = processor([image], return_tensors='np')['pixel_values']
  return np.asarray(pixels).transpose(0, 2, 3, 1)


def main():
  folder, out, *sides = sys.argv[1:]
  arrays = {}
  for name in os.listdir(folder):
    # As transformers' load_image does.
    image = ImageOps.exif_transpose(Image.open(os.path.join(folder, name)))
    for side in map(int, sides):
      arrays[f'{name}.{side}'] = _pixels(image, side)
  np.savez(out, **arrays)


if __name__ == '__main__':
  main()
