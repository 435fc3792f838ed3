from .ablation.ablate import ablate as ablate
from .comparison.diff import diff as diff
from .detect.retrieval import score as score
from .prompts.building import needle_prompts as needle_prompts
from .prompts.needles import Needle as Needle
from .scores.scores import Scores as Scores
from .tracking.track import track as track
