"""The PyTorch reference, advcl_torch.py, as a module: the one beside this file or another that --reference names."""
import importlib.util
from pathlib import Path

DEFAULT = Path(__file__).resolve().with_name("advcl_torch.py")


def add_reference(parser):
    """Lets a script's user name another reference."""
    parser.add_argument("--reference", default=str(DEFAULT), help="the PyTorch reference (default: scripts/reference/advcl_torch.py)")


def load_reference(path=DEFAULT):
    spec = importlib.util.spec_from_file_location("advcl_torch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
