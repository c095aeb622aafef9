"""The launcher of SLURM jobs and what is told of them, with stand-ins for SLURM's commands."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from piwsl_ocp.cli import build
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.reproduction.reproduce import Reproduction
from piwsl_ocp.experiments.run_record import RunRecord, SlurmJob
from piwsl_ocp.experiments.sweep import slurm as slurm_launcher
from piwsl_ocp.experiments.sweep import slurm_queue
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm import SlurmLauncher
from piwsl_ocp.experiments.sweep.slurm_queue import JobState
from piwsl_ocp.experiments.sweep.slurm_runs import LastStates, cancel_runs, states_of_runs

PARTITIONS = "normal*\ngpu\nlong\n"


class FakeSlurm:
    """Commands that answer what a test lays down.

    Args:
        folder: of the commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo", "sacct"):
            self.answer(name, "")

    def answer(self, name: str, text: str, code: int = 0) -> None:
        """Let a command say something, on its error stream if its exit code is not 0."""
        (self.folder / f"{name}.txt").write_text(text)
        stream = 2 if code else 1
        self.script(name, f'cat "{self.folder}/{name}.txt" >&{stream}; exit {code}')

    def script(self, name: str, lines: str) -> None:
        """Let a command do something; its arguments are kept."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$*" >> "{path}.calls"\n{lines}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call of a command."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.is_file() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def queue(slurm: FakeSlurm) -> FakeSlurm:
    """Return a SLURM that takes jobs: numbers 1, 2, ...; it keeps what each submission says."""
    answer_partitions(slurm)
    slurm.script(
        "sbatch",
        f'n=$(wc -l < "{slurm.folder}/sbatch.calls"); cp "$1" "{slurm.folder}/$n.sh"\n'
        "echo Submitted batch job $n",
    )
    return slurm


def options(slurm: FakeSlurm, name: str) -> list[str | None]:
    """Return the value of an option in each submission."""
    scripts = [slurm.folder / f"{n + 1}.sh" for n in range(len(slurm.calls("sbatch")))]
    found = [re.findall(rf"^#SBATCH --{name}=(.*)$", path.read_text(), re.M) for path in scripts]
    return [values[-1] if values else None for values in found]


def make_jobs(folder: Path, count: int) -> list[Job]:
    return [Job({}, str(folder / f"run_{n}"), str(folder)) for n in range(count)]


def numbers(jobs: list[Job]) -> list[str | None]:
    found = [RunRecord(job.run_folder).slurm_job for job in jobs]
    return [slurm_job and slurm_job.number for slurm_job in found]


def answer_partitions(slurm: FakeSlurm, partitions: str = PARTITIONS) -> None:
    """Let sinfo name partitions, a hidden one with --all, and the cores of their nodes."""
    visible = "normal|8\\nnormal|16+\\ngpu|16\\nlong|8\\nlarge|64\\n"
    slurm.script(
        "sinfo",
        "case $* in *--all*--partition*) echo Conflicting options >&2; exit 1 ;;\n"
        f"*--all*%P*) printf '{partitions}hidden\\n' ;; *%P*) printf '{partitions}' ;;\n"
        f"*--all*%R*) printf '{visible}hidden|16\\n' ;; *) printf '{visible}' ;; esac",
    )


@pytest.mark.parametrize("partition", [None, "gpu", "gpu,long", "hidden"])
def test_partitions_that_slurm_accepts_are_accepted(
    slurm: FakeSlurm, partition: str | None
) -> None:
    answer_partitions(slurm)
    slurm_queue.check_fits(partition, 16)


@pytest.mark.parametrize(
    ("partition", "partitions", "message"),
    [
        (
            "gpu,lang",
            PARTITIONS,
            "SLURM has no partition 'lang': use one of normal, gpu, long, hidden",
        ),
        (
            None,
            "gpu\nlong\n",
            "SLURM has no default partition: set `partition` in the profile, one of gpu, long, "
            "hidden",
        ),
        (
            "gpu,long",
            PARTITIONS,
            "the SLURM profile asks for 17 cores on a node, and the largest node of partition "
            "'gpu,long' has 16: lower cpus_per_task or tasks_per_node",
        ),
    ],
)
def test_partitions_that_cannot_be_used_are_told(
    slurm: FakeSlurm, partition: str | None, partitions: str, message: str
) -> None:
    answer_partitions(slurm, partitions)
    with pytest.raises(UserError) as error:
        slurm_queue.check_fits(partition, 17)
    assert str(error.value) == message


def test_as_many_jobs_are_one_array_as_slurm_takes(queue: FakeSlurm, tmp_path: Path) -> None:
    queue.answer("scontrol", "MaxArraySize            = 3\nMaxArraySizeOfOthers = 9\n")
    jobs = make_jobs(tmp_path, 7)
    SlurmLauncher(SlurmProfile(array_parallelism=2)).submit(jobs)
    assert options(queue, "array") == ["0-2%2", "0-2%2", None]
    assert options(queue, "dependency") == [None, "afterany:1", "afterany:2"]
    assert numbers(jobs) == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2", "3"]


def test_arrays_do_not_wait_where_all_jobs_may_run_at_once(
    queue: FakeSlurm, tmp_path: Path
) -> None:
    queue.answer("scontrol", "MaxArraySize = 3\n")
    SlurmLauncher(SlurmProfile(array_parallelism=4)).submit(make_jobs(tmp_path, 4))
    assert options(queue, "dependency") == [None, None]


def test_a_dependency_of_the_profile_holds_for_the_first_array(
    queue: FakeSlurm, tmp_path: Path
) -> None:
    queue.answer("scontrol", "MaxArraySize = 2\n")
    profile = SlurmProfile(array_parallelism=1, more={"dependency": "afterok:77"})
    SlurmLauncher(profile).submit(make_jobs(tmp_path, 4))
    assert options(queue, "dependency") == ["afterok:77", "afterany:1"]


@pytest.mark.parametrize(
    ("answer", "code", "size"),
    [("", 0, 1001), ("cannot contact slurmctld", 1, 1001), ("MaxArraySize = 0", 0, 1)],
)
def test_the_size_of_an_array_where_slurm_names_none(
    slurm: FakeSlurm, answer: str, code: int, size: int
) -> None:
    slurm.answer("scontrol", answer, code)
    assert slurm_queue.largest_array() == size


def test_jobs_that_slurm_took_before_it_refused_others_are_kept(
    queue: FakeSlurm, tmp_path: Path
) -> None:
    queue.answer("scontrol", "MaxArraySize = 2\n")
    script = (queue.folder / "sbatch").read_text()
    refuse = "[ $n = 1 ] || { echo 'sbatch: error: job submit limit' >&2; exit 1; }"
    (queue.folder / "sbatch").write_text(
        script.replace("echo Submitted", f"{refuse}\necho Submitted")
    )
    jobs = make_jobs(tmp_path, 5)
    with pytest.raises(UserError) as error:
        SlurmLauncher(SlurmProfile()).submit(jobs)
    assert str(error.value) == (
        "SLURM refuses 3 of 5 jobs: job submit limit; the others are in the queue, and the same "
        "command submits the rest when SLURM takes them"
    )
    assert numbers(jobs) == ["1_0", "1_1", None, None, None]


def answer_queue(slurm: FakeSlurm, job: SlurmJob, script: str) -> None:
    """Let squeue show a job that runs a script."""
    slurm.answer("squeue", f"{job.number}|RUNNING|None|{script}\n")


def test_a_job_that_was_given_the_number_of_another_is_left_alone(
    queue: FakeSlurm, tmp_path: Path
) -> None:
    jobs = make_jobs(tmp_path, 2)
    SlurmLauncher(SlurmProfile()).submit(jobs)
    before = RunRecord(jobs[0].run_folder).slurm_job
    answer_queue(queue, before, str(tmp_path / "elsewhere" / "a | b.sh"))
    assert cancel_runs([jobs[0].run_folder]) == 0
    assert states_of_runs([jobs[0].run_folder]) == {}
    assert queue.calls("scancel") == queue.calls("sacct") == []
    SlurmLauncher(SlurmProfile()).submit(jobs)
    assert numbers(jobs) == ["2_0", "2_1"]


def test_the_job_of_a_run_is_told_by_its_script(queue: FakeSlurm, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 2)
    SlurmLauncher(SlurmProfile()).submit(jobs)
    job = RunRecord(jobs[0].run_folder).slurm_job
    answer_queue(queue, job, queue.calls("sbatch")[0])
    assert states_of_runs([jobs[0].run_folder])[Path(jobs[0].run_folder)].word == "RUNNING"
    assert cancel_runs([job.run_folder for job in jobs]) == 1
    assert queue.calls("scancel") == [job.number]


def test_a_job_whose_script_was_not_kept_is_told_by_its_number(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    (run,) = make_jobs(tmp_path, 1)
    record = RunRecord(run.run_folder)
    record.keep_slurm_job(SlurmJob("7"))
    (record.folder / "slurm.json").write_text('{"job": "7"}')
    answer_queue(slurm, record.slurm_job, "/anywhere.sh")
    assert cancel_runs([run.run_folder]) == 1


SILENCE = "Unable to contact slurm controller (connect failure)"


def give_to_slurm(folder: Path) -> Path:
    """Let a run wait in SLURM as job 7, and return its folder."""
    (job,) = make_jobs(folder, 1)
    RunRecord(job.run_folder).keep_slurm_job(SlurmJob("7"))
    return Path(job.run_folder)


def test_the_last_states_are_kept_while_slurm_does_not_answer(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    run, states = give_to_slurm(tmp_path / "runs"), LastStates()
    slurm.answer("squeue", SILENCE, 1)
    assert states.look([run]) == {run: slurm_queue.UNKNOWN}
    assert states.silence == f"SLURM does not answer: {SILENCE}"
    slurm.answer("squeue", "7|PENDING|Priority\n")
    assert states.look([run]) == {run: JobState("PENDING", "Priority")}
    assert states.silence == ""
    slurm.answer("squeue", SILENCE, 1)
    assert states.look([run]) == {run: JobState("PENDING", "Priority")}
    slurm.answer("squeue", "")
    assert states.look([run]) == {}
    slurm.answer("squeue", SILENCE, 1)
    assert states.look([run]) == {}


def test_the_status_says_that_slurm_does_not_answer(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = give_to_slurm(tmp_path / "runs")
    slurm.answer("squeue", SILENCE, 1)
    said = CliRunner().invoke(build(), ["sweep", "status", str(run.parent)])
    assert said.exit_code == 0, said.output
    assert "1 unknown" in said.output
    assert f"SLURM does not answer: {SILENCE}" in said.output


def test_runs_are_watched_while_slurm_does_not_answer(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = give_to_slurm(tmp_path / "runs")
    slurm.script(
        "squeue",
        f'case $(wc -l < "{slurm.folder}/squeue.calls") in\n'
        f"1|3) echo '{SILENCE}' >&2; exit 1 ;;\n"
        "2|4) echo '7|PENDING|Priority' ;;\n"
        "*) echo '7|CANCELLED|None' ;;\nesac",
    )
    words = ["sweep", "status", str(run.parent), "--watch", "--interval", "0.1"]
    said = CliRunner().invoke(build(), words)
    assert said.exit_code == 0, said.output
    assert len(slurm.calls("squeue")) == 5
    assert "1 interrupted" in said.output
    assert "does not answer" not in said.output


@pytest.mark.parametrize(("choice", "cancelled"), [("leave", []), ("cancel", ["1_0 1_1"])])
def test_jobs_of_a_table_are_left_or_cancelled_on_ctrl_c_as_asked(
    queue: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    choice: str,
    cancelled: list[str],
) -> None:
    def run(self: Reproduction, launcher: SlurmLauncher, retry_failed: bool) -> bool:
        with launcher:
            launcher.submit(make_jobs(tmp_path, 2))
            raise KeyboardInterrupt

    monkeypatch.setattr(Reproduction, "run", run)
    words = ["reproduce", "4", "--launcher", "slurm", "--on-interrupt", choice]
    assert CliRunner().invoke(build(), words).exit_code == 130
    assert queue.calls("scancel") == cancelled


def test_jobs_that_find_slurm_silent_later_are_submitted_when_it_answers(
    queue: FakeSlurm, tmp_path: Path
) -> None:
    first, second, third = make_jobs(tmp_path, 3)
    launcher = SlurmLauncher(SlurmProfile(), poll_seconds=0)
    queue.answer("squeue", SILENCE, 1)
    with pytest.raises(UserError, match=r"^SLURM does not answer: Unable to contact"):
        launcher.submit([first])
    queue.answer("squeue", "")
    launcher.submit([first])
    queue.answer("squeue", SILENCE, 1)
    launcher.submit([second])
    launcher.submit([third])
    launcher.stop(third.run_folder)
    assert launcher.ended() == {third.run_folder: None}
    assert numbers([first, second, third]) == ["1", None, None]
    queue.answer("squeue", "1|RUNNING|None\n")
    assert launcher.ended() == {}
    assert numbers([first, second, third]) == ["1", "2", None]


def test_sbatch_that_does_not_reach_slurm_is_no_refusal(queue: FakeSlurm, tmp_path: Path) -> None:
    first, second = make_jobs(tmp_path, 2)
    launcher = SlurmLauncher(SlurmProfile(), poll_seconds=0)
    launcher.submit([first])
    takes = (queue.folder / "sbatch").read_text()
    queue.answer("sbatch", f"sbatch: error: Batch job submission failed: {SILENCE}", 1)
    launcher.submit([second])
    (queue.folder / "sbatch").write_text(takes)
    launcher.ended()
    assert numbers([first, second]) == ["1", "3"]


def killed_while_submitting(
    queue: FakeSlurm, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let SLURM take jobs from a process that ends before it keeps them."""

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunRecord, "keep_slurm_job", kill)
        with pytest.raises(KeyboardInterrupt):
            SlurmLauncher(SlurmProfile()).submit(jobs)
    (script,) = queue.calls("sbatch")
    tasks = [f"1_{n}" for n in range(len(jobs))] if len(jobs) > 1 else ["1"]
    queue.answer("squeue", "".join(f"{task}|PENDING|Priority|{script}\n" for task in tasks))


@pytest.mark.parametrize(("count", "found"), [(1, ["1"]), (3, ["1_0", "1_1", "1_2"])])
def test_jobs_that_slurm_took_from_a_killed_process_are_not_submitted_again(
    queue: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    found: list[str],
) -> None:
    jobs = make_jobs(tmp_path, count)
    killed_while_submitting(queue, jobs, monkeypatch)
    assert numbers(jobs) == [None] * count
    SlurmLauncher(SlurmProfile()).submit(jobs)
    assert len(queue.calls("sbatch")) == 1
    assert numbers(jobs) == found


def test_jobs_that_slurm_took_from_a_killed_process_can_be_cancelled(
    queue: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(tmp_path, 2)
    killed_while_submitting(queue, jobs, monkeypatch)
    assert cancel_runs([job.run_folder for job in jobs]) == 2
    assert queue.calls("scancel") == ["1_0 1_1"]


def test_of_two_that_submit_the_same_runs_at_once_one_does(
    queue: FakeSlurm, tmp_path: Path
) -> None:
    sbatch = queue.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("echo Submitted", "sleep 0.3\necho Submitted"))
    calls = queue.folder / "sbatch.calls"
    queue.script("squeue", f'[ ! -f "{calls}" ] || echo "1|PENDING|None|$(head -1 "{calls}")"')
    jobs = make_jobs(tmp_path, 1)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: SlurmLauncher(SlurmProfile()).submit(jobs), range(2)))
    assert len(queue.calls("sbatch")) == 1


def test_a_process_that_submits_for_ever_is_told(
    queue: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_launcher, "_LOCK_SECONDS", 0)
    (tmp_path / ".slurm").mkdir()
    with (
        FileLock(tmp_path / ".slurm" / "lock"),
        pytest.raises(
            UserError, match=r"another process submits runs of '.*: wait for it, or stop"
        ),
    ):
        SlurmLauncher(SlurmProfile()).submit(make_jobs(tmp_path, 1))
    assert not queue.calls("sbatch")


@pytest.mark.parametrize(
    ("word", "seconds", "reason"),
    [
        ("COMPLETED", 60, "its job ended without a result"),
        ("NODE_FAIL", 0, "its node failed"),
        ("", 60, "its job vanished, and SLURM keeps no account of it"),
    ],
)
def test_a_result_may_appear_a_minute_after_the_end_of_its_job(
    queue: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    seconds: float,
    reason: str,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(slurm_launcher, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    (job,) = make_jobs(tmp_path, 1)
    launcher = SlurmLauncher(SlurmProfile())
    launcher.submit([job])
    queue.answer("squeue", f"1|{word}|None\n" if word else "")
    ended = [launcher.ended() for _ in range(3)]
    if seconds:
        clock[0] += seconds - 1
        assert [*ended, launcher.ended()] == [{}] * 4
        clock[0] += 1
        ended = [{}, {}, launcher.ended()]
    assert ended[:2] == [{}, {}]
    failure = ended[2][job.run_folder]
    assert failure.reason == f"{reason} (SLURM job 1); the same command goes on with it"
    assert failure.is_passing
