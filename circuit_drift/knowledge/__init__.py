"""Knowledge over training: what is known at each checkpoint, what was acquired, kept and lost.

    from circuit_drift import knowledge
    book = knowledge.ledger(knowledge.read_scores("recall.csv", unit="entity", step="epoch", score="rouge1_recall"))
    book.to_frame()

Reads tables only: no torch.
"""

from checkpoints.former import attach_face

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)
