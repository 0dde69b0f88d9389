"""kd distils large Gemma 3 models into small ones."""
