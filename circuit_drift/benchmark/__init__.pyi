from .build import Benchmark as Benchmark
from .build import build_benchmark as build_benchmark
from .recipe import Form as Form
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .sources import Source as Source
from .sources import read_sources as read_sources
