from .load import LoadedModel as LoadedModel
from .load import load_tokenizer as load_tokenizer
