from .facts import Fact as Fact
from .facts import Facts as Facts
from .facts import FactSet as FactSet
from .facts import default_facts as default_facts
from .facts import load_facts as load_facts
from .tokenizing import prompt_ids as prompt_ids
from .tokenizing import tokenize_facts as tokenize_facts
