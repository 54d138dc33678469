"""What the layout promises: one file and one YAML add an optimizer; the wheel is the library."""

import shutil
import subprocess
import sys
import textwrap
import zipfile

from runners import record
from runners.config import ROOT
from runners.plan import plan


def run(folder, *arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], check=False, cwd=folder, capture_output=True, text=True, timeout=300,
        **options,
    )  # fmt: skip


def test_adding_an_optimizer_is_one_file_and_one_yaml(tmp_path):
    for name in ("conf", "laprop", "runners", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "laprop" / "lion.py").write_text(
        textwrap.dedent("""
        import torch

        class Lion(torch.optim.Optimizer):
            def __init__(self, params, lr=1e-4, betas=(0.9, 0.99)):
                super().__init__(params, {"lr": lr, "betas": betas})

            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    b1, b2 = group["betas"]
                    for p in group["params"]:
                        m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                        p.sub_(torch.sign(b1 * m + (1 - b1) * p.grad), alpha=group["lr"])
                        m.lerp_(p.grad, 1 - b2)
    """)
    )
    (tmp_path / "conf" / "optimizer" / "lion.yaml").write_text(
        "_target_: laprop.lion.Lion\n_partial_: true\nlr: 1.0e-4\nbetas: [0.9, 0.99]\n"
    )
    done = run(tmp_path, "-m", "runners.run", "-m", "optimizer=lion,adam", "optimizer.lr=1e-3",
               "steps=50", "tracking=disabled")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 completed" in done.stdout
    assert "lion" in run(tmp_path, "-m", "runners.run", "--help").stdout


def test_the_wheel_is_laprop_alone_and_needs_torch_alone(tmp_path):
    """Built as `pip install .` builds it, from the files of the repository."""
    for name in ("laprop", "tasks", "runners", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    done = run(tmp_path, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "out", ".")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    modules = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    sources = {f"laprop/{p.name}" for p in (ROOT / "laprop").glob("*.*")}
    assert modules == {name for name in sources if not name.endswith("_test.py")}
    assert {"laprop/laprop.py", "laprop/fused.cpp", "laprop/py.typed"} <= modules
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in needed if "extra ==" not in line] == ["Requires-Dist: torch>=2.11"]


def test_importing_the_library_imports_nothing_of_the_harness():
    code = (
        "import sys, laprop; laprop.LaProp, laprop.AdaBound, laprop.SignSGD\n"
        "banned = {'hydra', 'omegaconf', 'wandb', 'pandas', 'tasks', 'runners', 'scripts'}\n"
        "sys.exit(', '.join(banned & set(sys.modules)) or 0)"
    )
    done = run(ROOT, "-c", code)
    assert done.returncode == 0, done.stderr


def test_help_comes_without_importing_torch():
    code = (
        "import sys\nfrom runners.run import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = run(ROOT, "-c", code)
    assert done.returncode == 0 and "key=value" in done.stdout


def test_a_narrowed_experiment_does_not_take_the_place_of_the_whole(tmp_path, capsys):
    from scripts.reproduce import main

    arguments = ["scale=smoke", "experiments=rosenbrock_noise", f"results_dir={tmp_path}"]
    arguments += ["tracking=disabled", "hydra/launcher=basic", "optimizer=adam,laprop"]
    assert main(arguments) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "rosenbrock_noise").iterdir()
    assert folder.name == "smoke-changed"
    command = "scripts.reproduce scale=smoke experiments=rosenbrock_noise optimizer=adam,laprop\n"
    assert command in (folder / "README.md").read_text()
    assert "rosenbrock_noise" not in (tmp_path / "REPORT.md").read_text()


def test_what_is_too_narrow_for_a_figure_is_told_in_one_line(tmp_path, capsys):
    from scripts.reproduce import main

    arguments = ["scale=smoke", "experiments=uv_plane", f"results_dir={tmp_path}", "steps=2"]
    arguments += ["tracking=disabled", "hydra/launcher=basic", "optimizer=laprop"]
    assert main(arguments) == 1
    (line,) = [t for t in capsys.readouterr().err.splitlines() if "no verdicts" in t]
    assert "uv_plane: steps=2 optimizer=laprop" in line and "too little of its sweep" in line


def test_a_damaged_experiment_stops_neither_the_others_nor_the_report(tmp_path, capsys):
    from scripts import redraw
    from scripts.reproduce import main

    # a space in a value: the command in the README has to be one that can be repeated
    arguments = ["scale=smoke", "experiments=bounded_update,interpolation", "seeds=[0, 1]",
                 f"results_dir={tmp_path}", "tracking=disabled", "hydra/launcher=basic"]  # fmt: skip
    assert main(arguments) == 0
    assert redraw.main(["bounded_update/smoke-changed", f"results_dir={tmp_path}"]) == 0
    (job, *_) = plan(["experiment=bounded_update", "scale=smoke", "seeds=[0, 1]",
                      f"results_dir={tmp_path}"])  # fmt: skip
    path = job.config.folder / record.FILE_NAME
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + "{broken\n" + "".join(rest))
    (tmp_path / "REPORT.md").unlink()
    shutil.rmtree(tmp_path / "interpolation")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "bounded_update: no verdicts: records with unreadable lines" in capsys.readouterr().err
    assert (tmp_path / "interpolation" / "smoke-changed" / "figure.png").exists()
    assert (tmp_path / "REPORT.md").exists()
