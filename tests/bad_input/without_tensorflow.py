"""Use hvdkit where there is no TensorFlow."""

import sys
from importlib.machinery import PathFinder


class WithoutTensorFlow(PathFinder):
    """Finds what is installed, except TensorFlow."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.split(".")[0] == "tensorflow":
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path = [WithoutTensorFlow if finder is PathFinder else finder for finder in sys.meta_path]

import hvdkit  # noqa: E402

hvdkit.init()
