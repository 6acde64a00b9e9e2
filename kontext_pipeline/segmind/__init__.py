"""The client of the Segmind API: the model, the request, the calls, and the meaning of each answer."""
