from .ablation.ablate import (
    ablate as ablate,
)
from .ablation.ablate import (
    validate as validate,
)
from .ablation.kinds import (
    ABLATIONS as ABLATIONS,
)
from .ablation.kinds import (
    CONTROLS as CONTROLS,
)
from .ablation.validation import (
    Readout as Readout,
)
from .ablation.validation import (
    Validation as Validation,
)
from .comparison.diff import (
    HeadComparison as HeadComparison,
)
from .comparison.diff import (
    compare as compare,
)
from .detect.adaptive import adaptive_scores as adaptive_scores
from .detect.detectors import (
    DETECTORS as DETECTORS,
)
from .detect.dynamic import (
    Dynamics as Dynamics,
)
from .detect.dynamic import (
    dynamics as dynamics,
)
from .detect.query import query_scores as query_scores
from .detect.repeats import (
    repeat_scores as repeat_scores,
)
from .detect.repeats import (
    seen_tokens as seen_tokens,
)
from .detect.retrieval import retrieval_scores as retrieval_scores
from .detect.wu2024 import (
    defect_table as defect_table,
)
from .detect.wu2024 import (
    published_scores as published_scores,
)
from .niah.grid import NeedleMap as NeedleMap
from .niah.measure import (
    corpus_nll as corpus_nll,
)
from .niah.measure import (
    interference_map as interference_map,
)
from .niah.measure import (
    needle_map as needle_map,
)
from .prompts.building import (
    interference_prompts as interference_prompts,
)
from .prompts.building import (
    needle_prompts as needle_prompts,
)
from .prompts.needles import (
    Needle as Needle,
)
from .prompts.needles import (
    NeedlePrompt as NeedlePrompt,
)
from .prompts.needles import (
    NeedleSet as NeedleSet,
)
from .prompts.needles import (
    load_needles as load_needles,
)
from .prompts.pools import (
    default_haystack as default_haystack,
)
from .prompts.pools import (
    default_needles as default_needles,
)
from .prompts.probes import (
    PROBES as PROBES,
)
from .prompts.probes import (
    Probe as Probe,
)
from .prompts.probes import (
    probe as probe,
)
from .scores.change import Change as Change
from .scores.head_lists import (
    head_list_table as head_list_table,
)
from .scores.head_lists import (
    load_head_lists as load_head_lists,
)
from .scores.scores import (
    HeadScore as HeadScore,
)
from .scores.scores import (
    HeadScores as HeadScores,
)
from .scores.scores import (
    RetrievalScores as RetrievalScores,
)
from .tracking.correlation import (
    Correlation as Correlation,
)
from .tracking.correlation import (
    correlate as correlate,
)
from .tracking.correlation import (
    read_downstream as read_downstream,
)
from .tracking.monitor import (
    Monitor as Monitor,
)
from .tracking.track import (
    monitor as monitor,
)
