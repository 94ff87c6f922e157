"""Every method on one stream, over several seeds, in one table: average and forgetting, mean and deviation.

python examples/compare.py --seeds 0 1 2
python examples/compare.py --methods er derpp stella --set learner.epochs=1 --out runs/quick --latex

Each run folder is OUT/METHOD-SEED, as `avcl train --strategy METHOD` would leave it. What is finished there is not run
again, what was stopped is resumed. Each method has its own settings of the file and the replay buffer that all share.
"""

import argparse
import json
import sys
from pathlib import Path

from avcl.config.build import components_of
from avcl.config.files import read_config
from avcl.errors import StoppedError, UserError
from avcl.experiment.run import Run
from avcl.report.tables import compare, comparison_csv, comparison_latex, comparison_table
from avcl.utils.console import write

BASELINES = ["finetune", "er", "mir", "derpp", "gmed", "cls-er", "lump", "esmer"]
METHODS = [*BASELINES, "random", "mats", "stella", "stella-plus", "multitask"]


def options(words=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME", help="any that `avcl list` shows")
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int, metavar="N")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("run.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `avcl train`")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", dest="form", action="store_const", const=comparison_csv, help="print CSV")
    form.add_argument("--latex", dest="form", action="store_const", const=comparison_latex, help="print LaTeX")
    return parser, parser.parse_args(words)


def results(run):
    """What is in the run's folder when it is finished; trains what is left of it before."""
    if (run.folder / "run.json").exists():
        then, now = run.folder.manifest["settings"], json.loads(json.dumps(run.settings))
        if {**then, "out": now["out"]} != now:
            raise UserError(f"{run.folder}: holds a run with other settings; remove it, or choose another --out")
    if run.folder.finished:
        return json.loads((run.folder / "results.json").read_text())
    print(run.folder, file=sys.stderr)
    return run.train(resume=bool(run.folder.checkpoints))


def main(words=None):
    parser, chosen = options(words)
    try:
        plans = {method: [] for method in chosen.methods}
        for method, raws in plans.items():
            raw = read_config(chosen.config, chosen.set, method)
            raws += [{**raw, "seed": seed, "out": str(chosen.out / f"{method}-{seed}")} for seed in chosen.seeds]
            components_of(raws[0])  # configuration errors come before anything starts
        rows = compare({method: [results(Run.from_config(raw)) for raw in raws] for method, raws in plans.items()})
    except (UserError, StoppedError) as error:
        parser.exit(2, f"compare.py: {error}\n")
    title = f"{chosen.config}: percent, mean ± standard deviation over seeds {', '.join(map(str, chosen.seeds))}"
    write(chosen.form(rows).rstrip("\n") if chosen.form else comparison_table(title, rows))


if __name__ == "__main__":
    main()
