from .api.pairs import diff as diff
from .api.pairs import explain as explain
from .api.runs import load_run as load_run
from .api.runs import run as run
from .measures.base import Measure as Measure

__version__: str
