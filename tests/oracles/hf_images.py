"""Preprocesses images with transformers' Gemma 3 processor, as an oracle.

Usage: python hf_images.py FOLDER OUT.npz SIDE...

Writes arrays NAME.SIDE, uint8 [n, SIDE, SIDE, 3], for the files of the folder:
each image with its pan-and-scan crops.
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
    # As in transformers' load_image.
    image = ImageOps.exif_transpose(Image.open(os.path.join(folder, name)))
    for side in map(int, sides):
      arrays[f'{name}.{side}'] = _pixels(image, side)
  np.savez(out, **arrays)


if __name__ == '__main__':
  main()
