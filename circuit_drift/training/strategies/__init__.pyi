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
    retrieval_scores as retrieval_scores,
)
from .comparison import (
    strategies as strategies,
)
from .comparison import (
    strategy_ledgers as strategy_ledgers,
)
from .drift import (
    drift_frame as drift_frame,
)
from .drift import (
    function_frame as function_frame,
)
from .loop.epoch import (
    Diverged as Diverged,
)
from .page import write_comparison as write_comparison
from .plan import (
    plan_training as plan_training,
)
from .runner import (
    run_all as run_all,
)
from .runner import (
    run_strategy as run_strategy,
)
from .settings.config import (
    AnswerSettings as AnswerSettings,
)
from .settings.config import (
    Circuits as Circuits,
)
from .settings.config import (
    Config as Config,
)
from .settings.config import (
    load_config as load_config,
)
from .settings.documents import (
    Document as Document,
)
from .settings.documents import (
    load_documents as load_documents,
)
from .settings.documents import (
    write_documents as write_documents,
)
from .settings.strategy import (
    Lora as Lora,
)
from .settings.strategy import (
    Rope as Rope,
)
from .settings.strategy import (
    Strategy as Strategy,
)
