"""The wire and nothing else: the model, the request, the calls, and what each answer means."""
