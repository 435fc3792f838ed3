from .audit import audit as audit
from .errors import DriftError as DriftError
from .placement import Placement as Placement
from .series.checkpoint import Checkpoint as Checkpoint
from .series.series import Series as Series
from .series.series import open_checkpoint as open_checkpoint
from .series.series import open_series as open_series
