from .inputs import check_unchanged as check_unchanged
from .inputs import made_by as made_by
from .runner import explained as explained
from .runner import main as main
from .training import report_checkpoints as report_checkpoints
from .training import train_stage as train_stage
