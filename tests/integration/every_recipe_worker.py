"""One rank that runs every recipe for two steps, on a small model of the recipe's architecture.

    every_recipe_worker.py FOLDER

FOLDER holds one NAME.yaml per recipe; each is trained in turn, all in this one process.
"""

import sys
from pathlib import Path

from train.config import load_config
from train.distributed import init_distributed
from train.run import run


def main(folder: Path) -> None:
    context = init_distributed(120)
    for path in sorted(folder.glob("*.yaml")):
        code = run(load_config(path), context)
        assert code == 0, f"{path.name} ended with {code}"
        if context.is_main:
            print("ran", path.stem, flush=True)
        context.barrier()
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
