"""CLIP as a measure of kontext_pipeline: how like its input picture, and how like its prompt, a generated picture is.

Put this file into a package of your own that depends on torch and transformers, with the entry point

    [project.entry-points."kontext_pipeline.measures"]
    clip = "my_package.clip_measure:ClipMeasure"

The quality tables then have the columns `clip_image_similarity` and `clip_text_similarity`, cosines from -1 to 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class ClipMeasure:
    """Measures pictures with CLIP. An object is made when the first picture is measured, and loads the model."""

    version = 1
    batch_size = 16

    def __init__(self, name: str = "openai/clip-vit-base-patch32") -> None:
        """Load the model `name` from the Hugging Face Hub or its cache."""
        import torch
        from transformers import CLIPModel, CLIPProcessor

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = CLIPModel.from_pretrained(name).to(self._device).eval()
        self._processor = CLIPProcessor.from_pretrained(name)

    def __call__(self, samples: Sequence[Any]) -> list[Mapping[str, float]]:
        """Return the similarities of each sample; those to an input picture only where there is one."""
        with_input = [index for index, sample in enumerate(samples) if sample.input is not None]
        pictures = [sample.output for sample in samples] + [samples[index].input for index in with_input]
        # CLIP knows captions better than instructions: a manifest with a column `caption` is measured by that.
        texts = [sample.row.get("caption") or sample.row["prompt"] for sample in samples]
        inputs = self._processor(text=texts, images=pictures, return_tensors="pt", padding=True, truncation=True)
        with self._torch.inference_mode():
            outputs = self._model(**inputs.to(self._device))
        # Both have the length 1, so that the sum of products is the cosine.
        image, text = outputs.image_embeds, outputs.text_embeds
        numbers = [{"text_similarity": float((image[i] * text[i]).sum())} for i in range(len(samples))]
        for position, index in enumerate(with_input, start=len(samples)):
            numbers[index]["image_similarity"] = float((image[index] * image[position]).sum())
        return numbers
