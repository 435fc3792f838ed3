from .comparison import (
    Trained as Trained,
)
from .comparison import (
    comparison_frame as comparison_frame,
)
from .comparison import (
    outcome_frame as outcome_frame,
)
from .comparison import (
    retrieval_frame as retrieval_frame,
)
from .comparison import (
    strategies as strategies,
)
from .comparison import (
    strategy_ledgers as strategy_ledgers,
)
from .config import (
    Config as Config,
)
from .config import (
    Lora as Lora,
)
from .config import (
    Strategy as Strategy,
)
from .config import (
    load_config as load_config,
)
from .documents import (
    Document as Document,
)
from .documents import (
    load_documents as load_documents,
)
from .documents import (
    write_documents as write_documents,
)
from .drift import (
    drift_frame as drift_frame,
)
from .drift import (
    function_frame as function_frame,
)
from .page import write_comparison as write_comparison
from .runner import (
    Diverged as Diverged,
)
from .runner import (
    run_all as run_all,
)
from .runner import (
    run_strategy as run_strategy,
)
