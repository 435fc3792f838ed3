from .comparison.pair import (
    PairDiff as PairDiff,
)
from .comparison.pair import (
    compare as compare,
)
from .comparison.pair import (
    diff as diff,
)
from .prompts import (
    Prompts as Prompts,
)
from .prompts import (
    prompts_for as prompts_for,
)
from .report import write_report as write_report
from .store.store import Store as Store
from .sweep.sweep import (
    Run as Run,
)
from .sweep.sweep import (
    load_run as load_run,
)
from .sweep.sweep import (
    run as run,
)

__version__: str
