"""Inputs that cannot be right, of both packages, and what is said of each."""

from tests.wrong_inputs.bases import BASES
from tests.wrong_inputs.command_lines import COMMAND_LINES
from tests.wrong_inputs.configs import CONFIGS
from tests.wrong_inputs.corpus import CORPUS
from tests.wrong_inputs.data_files import DATA_FILES

CASES = [*COMMAND_LINES, *CONFIGS, *BASES, *DATA_FILES, *CORPUS]
