from .diverging import (
    Divergence as Divergence,
)
from .diverging import (
    divergence as divergence,
)
from .history import (
    Spell as Spell,
)
from .history import (
    Survival as Survival,
)
from .history import (
    spells as spells,
)
from .history import (
    survival as survival,
)
from .ledger import (
    Ledger as Ledger,
)
from .ledger import (
    ledger as ledger,
)
from .resampling import (
    Resampled as Resampled,
)
from .resampling import (
    resample as resample,
)
from .rouge import rouge1_recall as rouge1_recall
from .scores import (
    UnitScores as UnitScores,
)
from .scores import (
    read_scores as read_scores,
)
from .scores import (
    scores_from_frame as scores_from_frame,
)
from .sources import (
    graph_scores as graph_scores,
)
from .sources import (
    rank_scores as rank_scores,
)
from .sources import (
    series_scores as series_scores,
)
