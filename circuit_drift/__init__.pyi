from .api.pairs import (
    PairDiff as PairDiff,
)
from .api.pairs import (
    compare as compare,
)
from .api.pairs import (
    diff as diff,
)
from .api.runs import (
    Run as Run,
)
from .api.runs import (
    load_run as load_run,
)
from .api.runs import (
    run as run,
)
from .measures.base import Measure as Measure
from .prompts import (
    Prompts as Prompts,
)
from .prompts import (
    prompts_for as prompts_for,
)
from .report import write_report as write_report
from .store.store import Store as Store

__version__: str
