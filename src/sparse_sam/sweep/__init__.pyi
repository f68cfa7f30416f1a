from .declaration import SET_BY_SWEEP as SET_BY_SWEEP
from .declaration import Sweep as Sweep
from .declaration import load_sweep as load_sweep
from .declaration import parse_sweep as parse_sweep
from .one_cell import reproduce as reproduce
from .store import Store as Store
from .sweeping import run_sweep as run_sweep
