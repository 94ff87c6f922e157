"""Every method on the rendered stream, over three seeds, in one table: `avcl sweep` with all its methods.

python examples/compare.py --jobs 2
python examples/compare.py --methods er derpp stella --seeds 5 --set learner.epochs=1 --out runs/quick
"""

import sys
from pathlib import Path

from avcl.cli.main import app

BASELINES = ["finetune", "er", "mir", "derpp", "gmed", "cls-er", "lump", "esmer"]
METHODS = [*BASELINES, "random", "mats", "stella", "stella-plus", "multitask"]


def main(words):
    methods = [] if "--methods" in words else ["--methods", *METHODS]
    app(["sweep", str(Path(__file__).with_name("run.yaml")), "--out", "runs/compare", *methods, *words])


if __name__ == "__main__":
    main(sys.argv[1:])
