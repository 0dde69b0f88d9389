"""An OpenAI-compatible server on the engine of kd/sampling."""
