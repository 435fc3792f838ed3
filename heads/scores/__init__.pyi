from .scores import DetectorScores as DetectorScores
from .scores import HeadScore as HeadScore
from .scores import Scores as Scores
