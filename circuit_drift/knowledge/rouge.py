"""ROUGE-1 recall, as studies of knowledge acquisition score generated text; the retrieval detectors' own."""

from heads.detect.rouge import rouge1_recall

__all__ = ["rouge1_recall"]
