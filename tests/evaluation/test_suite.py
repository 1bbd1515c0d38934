"""A suite as processes: planned, killed, stopped, gone on with, and summed up."""

import json
import shutil
import signal
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from fakedetect_jax import suite as suite_command
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.evaluation import suite_plan, suite_runs, suite_summary
from fakedetect_jax.metrics.records import ClipScore
from fakedetect_jax.reports import results
from fakedetect_jax.reports.report import to_text
from tests.made_scores import known
from tests.patience import LIMIT
from tfds_ffpp import system
from tfds_ffpp.errors import DataError
from tfds_ffpp.store.files import write_lines

SUITE = "fakedetect_jax.suite"


def wait_for(path: Path, text: str, process) -> None:
    """Waits until a file holds a text."""
    end = time.monotonic() + LIMIT
    while not path.exists() or text not in path.read_text():
        assert process.code() is None and time.monotonic() < end, process.stderr
        time.sleep(0.02)


def attempts(log: Path) -> int:
    return log.read_text().count("\n$ ")


def steps(workdir: Path) -> list[tuple[int, float]]:
    """Step and loss of each line of training."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def asked(tiny_config, tmp_path_factory) -> Path:
    """The file of a suite of two seeds."""
    folder = tmp_path_factory.mktemp("suite")
    path = folder / "suite.toml"
    path.write_text(
        f'workdir = "{folder}/suite"\nconfig = "{tiny_config}"\nseeds = [0, 1]\n'
        'test = ["demo"]\n\n[fields]\nlog_every_steps = 2\n'
    )
    return path


@pytest.fixture(scope="module")
def finished(launchpad, asked) -> Path:
    """The folder of that suite, which was stopped once and killed once on its way."""
    suite, command = asked.parent / "suite", ("--file", asked)
    train, test = (suite / "tiny-seed0" / f"{n}.log" for n in ("train", "test-demo"))
    process = launchpad.start(*command, module=SUITE)
    wait_for(train, "Epoch 2/6", process)
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.stderr
    assert "the same command goes on where this stopped" in process.stderr
    assert "saved step" in train.read_text()
    process = launchpad.start(*command, module=SUITE)
    wait_for(test, "$ ", process)
    children = psutil.Process(process.pid).children()
    process.send(signal.SIGKILL)
    assert process.wait() == 137
    gone, left = psutil.wait_procs(children, timeout=LIMIT)
    assert len(gone) == 1 and left == []
    assert not any(train.parent.glob("eval/test@*"))  # it did not go on alone
    assert not (suite / "suite.json").exists()
    jobs = min(2, system.num_cores())
    code, out, err = launchpad.run(*command, f"--jobs={jobs}", module=SUITE)
    assert code == 0, err
    assert "run 1 of 2: tiny, seed 0: training" not in out
    assert "run 1 of 2: tiny, seed 0: test on demo" in out
    assert f"run 2 of 2: tiny, seed 1: training ({suite}/tiny-seed1/train.log)" in out
    assert f"page: {suite / 'suite.html'}" in out
    return suite


@pytest.fixture(scope="module")
def failed(launchpad, finished, asked) -> Path:
    """A copy of it with more asked for: a fold without any fake, a lost dataset."""
    suite = shutil.copytree(finished, asked.parent / "failed")
    words = ("--file", asked, "--workdir", suite, "--hold_out=each", "--seeds=0")
    code, out, err = launchpad.run(*words, "--test=demo,lost", module=SUITE)
    assert code == 2, err  # the fold's
    assert "run 1 of 2: tiny, seed 0: nothing is left to do" in out
    assert "run 2 of 2: tiny, seed 0, without Deepfakes: training (" in out
    assert "warning: the test on lost of tiny has no dataset yet: there is no" in err
    assert "without Deepfakes: training failed: config.data.hold_out names every" in err
    assert "error: 2 of 2 runs could not be done" in err and "Traceback" not in err
    return suite


def test_what_was_killed_or_stopped_repeats_nothing(finished, undisturbed):
    for seed, trainings, tests in ((0, 2, 2), (1, 1, 1)):
        workdir = finished / f"tiny-seed{seed}"
        assert attempts(workdir / "train.log") == trainings
        assert attempts(workdir / "test-demo.log") == tests
        assert [step for step, _ in steps(workdir)] == list(range(1, 13))
    assert steps(finished / "tiny-seed0") == steps(undisturbed)
    assert steps(finished / "tiny-seed1") != steps(undisturbed)


def test_the_numbers_are_those_of_single_evaluations(
    launchpad, finished, undisturbed, tmp_path
):
    workdir = shutil.copytree(undisturbed, tmp_path / "w")
    code, _, err = launchpad.run("--workdir", workdir, "--mode=eval", "--split=test")
    assert code == 0, err
    (path,) = workdir.glob("eval/test@*/report.json")
    single = json.loads(path.read_text())["video"]
    found = json.loads((finished / "suite.json").read_text())
    run, (row,) = found["runs"][0], found["matrix"]
    assert run["name"] == "tiny-seed0" and run["tests"][0]["test_evaluations"] == 1
    balanced = single["at_threshold"]["balanced_accuracy"]
    wanted = {**single, "balanced_accuracy": balanced}
    for name, value in run["tests"][0]["values"].items():
        assert value == pytest.approx(wanted[name], abs=1e-12)
        cell = row["cells"][0]["measures"][name]
        both = [one["tests"][0]["values"][name] for one in found["runs"]]
        assert cell["values"] == pytest.approx(both, abs=1e-12)
        assert cell["mean"] == pytest.approx(sum(both) / 2, abs=1e-12)
    assert found["touches"] == [{"dataset": "demo", "evaluations": 2, "runs": 2}]


def test_a_cell_that_could_not_run_says_why(failed):
    found = json.loads((failed / "suite.json").read_text())
    (row,), (fold,) = found["matrix"], found["folds"]
    lost = row["cells"][1]
    assert lost["measures"] == {}
    assert lost["missing"][0].startswith("seed 0: there is no dataset lost under ")
    assert row["mean"]["auc"]["mean"] is None and row["worst"]["auc"] is None
    assert (fold["method"], fold["unseen"]["measures"]) == ("Deepfakes", {})
    assert "no fake is left to train on" in fold["unseen"]["missing"][0]
    assert fold["seen"]["measures"]["auc"]["mean"] is not None
    reasons = [difference["problem"] for difference in found["differences"]]
    assert reasons == ["tiny without Deepfakes has no result there"]
    assert len(found["problems"]) == 2 and found["waiting"] == []
    page = (failed / "suite.html").read_text()
    assert page.count("no fake is left to train on") > 1
    assert "2 could not be done" in page and "there is no dataset lost" in page


# Summing up -----------------------------------------------------------------------


@pytest.fixture
def trials(finished, tiny_config, tmp_path) -> list[suite_plan.Trial]:
    """Two configs by two seeds and a fold each: copies, with scores of their own."""
    wide = tmp_path / "wide.py"
    wide.write_text(tiny_config.read_text())
    plan = suite_plan.make_plan(
        suite_plan.Asked(
            workdir=tmp_path / "suite",
            configs=(str(tiny_config), str(wide)),
            seeds=(0, 1),
            hold_out=(suite_plan.EACH,),
            tests=("demo",),
        )
    )
    for number, trial in enumerate(plan):
        shutil.copytree(finished / "tiny-seed0", trial.workdir)
        record = {"config": trial.config.to_dict()}
        (trial.workdir / "config.json").write_text(json.dumps(record))
        (folder,) = trial.workdir.glob("eval/test@*")
        rows = results.read_rows(folder / "scores.jsonl", ClipScore)
        scores = [0.2 + 0.07 * ((number + 1) * (i + 2) ** 2 % 9) for i in range(8)]
        moved = [r._replace(score=s) for r, s in zip(rows, scores, strict=True)]
        write_lines(folder / "scores.jsonl", moved)
        report = results.summarise(results.read_evaluation(folder))
        (folder / "report.json").write_text(to_text(report))
    return plan


def test_recipes_and_folds_meet_on_the_same_videos(trials, tmp_path):
    found = suite_summary.summarise(trials, ["demo"], tmp_path / "suite")
    assert [row.model for row in found.matrix] == ["tiny", "wide"]
    assert [(fold.model, fold.method) for fold in found.folds] == [
        ("tiny", "Deepfakes"),
        ("wide", "Deepfakes"),
    ]
    compared = [(d.first, d.second, d.method) for d in found.differences]
    assert compared == [
        ("wide", "tiny", ""),
        ("tiny without Deepfakes", "tiny", "Deepfakes"),
        ("wide without Deepfakes", "wide", "Deepfakes"),
        ("wide without Deepfakes", "tiny without Deepfakes", "Deepfakes"),
    ]
    assert all(d.problem is None and d.verdict != "real" for d in found.differences)
    assert known(found.differences[0].change).difference != 0
    for fold, run in zip(
        found.folds, [r for r in found.runs if r.without], strict=False
    ):
        (tested,) = run.tests
        report = json.loads(
            (tmp_path / "suite" / known(tested.folder) / "report.json").read_text()
        )
        unseen = report["video"]["by_method"]["Deepfakes"]["auc"]
        assert tested.unseen == pytest.approx(unseen, abs=1e-12)
        assert fold.unseen.measures["auc"].values[0] == pytest.approx(unseen, abs=1e-12)
    suite_summary.write(found, tmp_path / "suite")
    page = (tmp_path / "suite" / "suite.html").read_text()
    HTMLParser().feed(page)
    for run in found.runs:
        link = f"{run.tests[0].folder}/report.html"
        assert f'href="{quote(link)}"' in page and (tmp_path / "suite" / link).exists()


def test_a_result_counts_without_its_dataset_and_not_with_another(
    trials, tmp_path, monkeypatch
):
    trial = trials[0]
    there = suite_runs.find_result(trial, "demo")
    assert there is not None and suite_runs.is_trained(trial)
    with monkeypatch.context() as patch:
        patch.setattr(suite_runs.evaluate, "dataset_digest", lambda _: "another")
        assert suite_runs.find_result(trial, "demo") is None
    moved = trial.config.copy_and_resolve_references()
    with moved.unlocked():
        moved.data.data_dir = str(tmp_path / "gone")
    own = trial.workdir / "config.json"
    own.write_text(json.dumps({"config": moved.to_dict()}))
    assert suite_runs.find_result(trial, "demo") == there
    with pytest.raises(DataError, match="there is no dataset other"):
        suite_runs.find_result(trial, "other")


def test_a_training_that_is_asked_for_more_is_not_done(trials):
    trial = trials[0]
    longer = trial.config.copy_and_resolve_references()
    with longer.unlocked():
        longer.num_epochs = 7
    assert not suite_runs.is_trained(trial._replace(config=longer))
    own = trial.workdir / "config.json"
    own.write_text(json.dumps({"config": longer.to_dict()}))
    assert not suite_runs.is_trained(trial._replace(config=longer))
    own.write_text("{")
    assert not suite_runs.is_trained(trial)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not run yet"),
        ("\n$ a\nerror: one\nexit code 3\n\n$ a\nerror: two\nexit code 2\n", "two"),
        ("\n$ a\nerror: one\nexit code 3\n\n$ a\nEpoch 1\n", "under way, or its"),
        ("\n$ a\nEpoch 1\nexit code 137\n", "ended by SIGKILL; see "),
        ("\n$ a\nTraceback\nexit code 1\n", "ended with exit code 1 and no sentence"),
    ],
)
def test_a_log_says_why_by_its_last_attempt(tmp_path, text, said):
    trial = suite_plan.Trial("n", "m", 0, "", (), tmp_path, "c", (), None)
    if text is not None:
        suite_runs.log_of(trial, "x").write_text(text)
    assert suite_runs.problem(trial, "x").startswith(said)


# Asking --------------------------------------------------------------------------


def test_the_list_has_a_command_for_each_run(tiny_config, tmp_path, capsys):
    words = ["--config", str(tiny_config), "--workdir", str(tmp_path / "s")]
    words += ["--seeds=3,5", "--test=demo,other", "--config.batch_size=4"]
    assert suite_command.main([*words, "--list", "--hold_out=Deepfakes"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == [
        *("tiny-seed3", "tiny-seed3-without-Deepfakes"),
        *("tiny-seed5", "tiny-seed5-without-Deepfakes"),
    ]
    assert lines[1][1].startswith("python -m fakedetect_jax.suite --config ")
    assert lines[1][1].endswith(
        "--hold_out=Deepfakes --only=tiny-seed3-without-Deepfakes"
    )
    assert not (tmp_path / "s").exists()


def test_a_trial_is_commands_that_could_be_typed(tiny_config, tmp_path):
    asked = suite_plan.Asked(
        workdir=tmp_path,
        configs=(str(tiny_config),),
        seeds=(3,),
        hold_out=("Deepfakes",),
        tests=("demo", "other"),
        fields=("--config.batch_size=4",),
    )
    whole, fold = suite_plan.make_plan(asked)
    assert whole.tests == ("demo", "other") and fold.tests == ("demo",)
    assert fold.command()[3:] == [
        *("--config", str(tiny_config)),
        *("--workdir", str(tmp_path / "tiny-seed3-without-Deepfakes")),
        *("--config.batch_size=4", "--config.seed=3"),
        "--config.data.hold_out=('Deepfakes',)",
    ]
    assert whole.command("other")[3:] == [
        *("--workdir", str(tmp_path / "tiny-seed3")),
        *("--config.batch_size=4", "--config.seed=3"),
        *("--mode=eval", "--split=test", "--config.eval.dataset=other"),
    ]
    assert fold.config.data.hold_out == ("Deepfakes",) and fold.config.seed == 3


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--test=demo"], "--config is missing", 2),
        (["--config=demo"], "--test is missing", 2),
        (["--config=TINY", "--test=demo", "--jobs=0"], "--jobs is 0", 2),
        (["--config=TINY", "--test=demo", "--jobs=999"], "cores to share", 2),
        (["--config=TINY", "--test=demo", "--seeds=a"], "--seeds has 'a'", 2),
        (["--config=TINY", "--test=demo", "--seeds=1,1"], "the name 1", 2),
        (["--config=TINY", "--test=demo", "--batch=1"], "'--batch=1' is not known", 2),
        (["--config=TINY", "--test=demo", "--config.lr=1"], "did you mean", 2),
        (["--config=TINY", "--test=demo", "--config.seed=1"], "what --seeds says", 2),
        (["--config=TINY", "--test=demo", "--only=x"], "--only is x, which is no", 2),
        (["--config=TINY", "--test=x", "--hold_out=each"], "add demo to --test", 2),
        (["--config=TINY", "--test=demo", "--hold_out=No"], "fakes are of Deepf", 3),
        (["--config=TINY", "--test=demo", "--hold_out=each,No"], "not both", 2),
        (["--config=TINY", "--test=demo", "--workdir=gs://b/c"], "--workdir is gs", 2),
        (
            ["--config=demo", "--test=demo", "--hold_out=each", "--list"],
            "not; build",
            3,
        ),
        (["--file=none.toml"], "none.toml cannot be read (No such file", 2),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    tiny_config, tmp_path, monkeypatch, capsys, words, said, code
):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("TINY", str(tiny_config)) for word in words]
    assert suite_command.main(words) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and said in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_the_command_line_in_other_words(tmp_path, tiny_config):
    path = tmp_path / "suite.json"
    given = {"config": str(tiny_config), "seeds": [0, 1], "test": ["a", "b"], "jobs": 2}
    given["fields"] = {"data": {"hold_out": ["x"]}, "batch_size": 4}
    path.write_text(json.dumps(given))
    read = suite_command.parse_arguments(["--file", str(path), "--seeds=7"], "suite")
    assert (read.seeds, read.test, read.jobs) == (["7"], ["a", "b"], 2)
    assert read.fields == ["--config.data.hold_out=('x',)", "--config.batch_size=4"]
    path.write_text('{"tests": ["a"]}')
    with pytest.raises(ConfigError, match="has tests; it may have workdir, config"):
        suite_command.parse_arguments(["--file", str(path)], "suite")


def test_a_machine_is_shared_out(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(suite_runs.process, "will_run_on_cpu", lambda _: False)
    slots = suite_runs.make_slots(2, "any")
    assert [slot.environment for slot in slots] == [
        {"CUDA_VISIBLE_DEVICES": "0,2"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    with pytest.raises(ConfigError, match="--jobs is 4, and this machine has 3 GPUs"):
        suite_runs.make_slots(4, "any")
    monkeypatch.setattr(suite_runs.process, "will_run_on_cpu", lambda _: True)
    monkeypatch.setattr(suite_runs.os, "sched_getaffinity", lambda _: {0, 2, 5})
    assert [slot.cores for slot in suite_runs.make_slots(2, "any")] == [(0, 5), (2,)]
    assert suite_runs.make_slots(1, "any") == [suite_runs.Slot({})]
