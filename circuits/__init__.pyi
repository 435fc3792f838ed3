from .attribution.edges import attribute as attribute
from .comparison.diff import diff as diff
from .facts.facts import Fact as Fact
from .facts.tokenizing import tokenize_facts as tokenize_facts
from .graph.scores import AttributionGraph as AttributionGraph
from .intervention.faithfulness_measure import faithfulness as faithfulness
from .tracking.track import track as track
