from .scores import HeadScore as HeadScore
from .scores import HeadScores as HeadScores
from .scores import RetrievalScores as RetrievalScores
