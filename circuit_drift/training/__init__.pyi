from .beside import SideProber as SideProber
from .budget import Budget as Budget
from .callback import (
    ProbeCallback as ProbeCallback,
)
from .callback import (
    StoppingCallback as StoppingCallback,
)
from .live import (
    LiveCheckpoint as LiveCheckpoint,
)
from .live import (
    live_model as live_model,
)
from .prober import (
    Prober as Prober,
)
from .prober import (
    ProbeRecord as ProbeRecord,
)
from .recorder import (
    Recorder as Recorder,
)
from .recorder import (
    unit_scores as unit_scores,
)
from .retrospective import probe_series as probe_series
from .schedule import Schedule as Schedule
from .sharded import WholeCopy as WholeCopy
from .stopping import (
    Judgement as Judgement,
)
from .stopping import (
    StoppingRule as StoppingRule,
)
from .stopping import (
    Verdict as Verdict,
)
from .stopping import (
    judge as judge,
)
from .stopping import (
    verdict as verdict,
)
from .undisturbed import (
    TrainingDisturbed as TrainingDisturbed,
)
from .undisturbed import (
    undisturbed as undisturbed,
)
