"""kd distils large Gemma 3 models into small ones."""

import os

# C++ logging that TensorFlow shares with other libraries reads this once, when
# the first of them is loaded: only here is early enough.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
