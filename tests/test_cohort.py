"""Many scans: read ahead, written behind, shared by processes, done once each, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from autoseg_lib.errors import ExportError
from autoseg_lib.events import Event, Message, Progress, StopFlag
from autoseg_lib.io.run_record import PARTS_FOLDER, read_record
from autoseg_lib.settings import SegmentSettings, make_settings
from autoseg_lib.workflow.claims import Claims
from autoseg_lib.workflow.reading_ahead import Overlap
from autoseg_lib.workflow.segmenting import SegmentResult, segment
from tests.helpers.cohorts import write_model, write_scans

TABLES = ("measurements.csv", "volumes.csv", "csa_results.csv")
COUNT = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small_best.safetensors")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("é scans") / "in"
    write_scans(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def alone(scans: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same list, done by one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert not run(scans, model, output).failures
    return output


def run(folder: Path, model: Path, output: Path, **options: object) -> SegmentResult:
    return segment(folder, model, output, make_settings(SegmentSettings, {}), **options)  # type: ignore[arg-type]


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def segmenting(
    scans: Path, model: Path, output: Path, mode: str = "--continue", **environment: str
) -> subprocess.Popen[str]:
    options = ["--model", model, "--output", output, "--json", *([mode] if mode else [])]
    return start("autoseg_lib", "segment", scans, *options, **environment)


def ended(processes: list[subprocess.Popen[str]]) -> list[dict]:
    results = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        results.append(json.loads(out))
    return results


def assert_like_alone(output: Path, alone: Path) -> None:
    for name in TABLES:
        assert (output / name).read_bytes() == (alone / name).read_bytes(), name
    assert read_record(output).keys() == read_record(alone).keys()
    report, expected = (
        json.loads((d / "run_report.json").read_text(encoding="utf-8")) for d in (output, alone)
    )
    assert [c["case"] for c in report["cases"]] == [c["case"] for c in expected["cases"]]
    assert report["failures"] == []
    assert (output / "report.html").is_file()
    assert not (output / PARTS_FOLDER).exists()


# --- one process -----------------------------------------------------------------------------------------------------------


def test_progress_counts_scans_and_says_how_long_it_takes(scans: Path, model: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    threads: set[str] = set()

    def listener(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread().name)

    result = run(scans, model, tmp_path / "out", on_event=listener)
    assert [case.name for case in result.cases] == [f"scan_{n:02d}" for n in range(1, COUNT + 1)]
    counts = [event for event in events if isinstance(event, Progress) and event.stage == "Scans"]
    assert [event.done for event in counts] == sorted(event.done for event in counts)
    assert {event.done for event in counts} == set(range(COUNT + 1))
    # How long the rest takes is known once the first scan is done, and nothing is heard in any other thread.
    assert all((event.seconds_left is None) == (event.done == 0) for event in counts[:-1])
    assert threads == {threading.current_thread().name}


def test_a_broken_scan_does_not_stop_the_rest(model: Path, tmp_path: Path) -> None:
    names = write_scans(tmp_path / "in", 3, broken=2)
    heard: list[tuple[str, str]] = []

    def listener(event: Event) -> None:
        if isinstance(event, Message) and event.level == "warning":
            heard.append((threading.current_thread().name, event.text))

    output = tmp_path / "out"
    result = run(tmp_path / "in", model, output, on_event=listener)
    assert [case.name for case in result.cases] == [names[0], names[2]]
    reason = "'scan_02.nii.gz': the file ends early (2000 bytes are missing). Copy it again."
    assert result.failures == (("scan_02", reason),)
    # It was found out in the thread that reads, and is told in the one that listens.
    assert heard == [(threading.current_thread().name, reason)]
    assert not (output / PARTS_FOLDER).exists()
    # The next run tries again.
    write_scans(tmp_path / "again", 2)
    (tmp_path / "again" / "scan_02.nii.gz").replace(tmp_path / "in" / "scan_02.nii.gz")
    again = run(tmp_path / "in", model, output, mode="continue")
    assert not again.failures and [case.already_done for case in again.cases] == [True, False, True]


def test_a_stop_keeps_what_is_done_and_the_next_run_goes_on(
    scans: Path, model: Path, alone: Path, tmp_path: Path
) -> None:
    stop, output = StopFlag(), tmp_path / "out"

    def after_two(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "Scans" and event.done == 2:
            stop.set()

    result = run(scans, model, output, on_event=after_two, stop=stop)
    assert result.stopped and f"stopped by the user after 2 of {COUNT} scans." in result.notes
    assert sorted(set(pd.read_csv(output / "volumes.csv")["case"])) == ["scan_01", "scan_02"]
    again = run(scans, model, output, mode="continue")
    assert [case.already_done for case in again.cases] == [True] * 2 + [False] * (COUNT - 2)
    assert_like_alone(output, alone)


def test_a_killed_run_goes_on_from_what_was_finished(
    scans: Path, model: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start("tests.helpers.cohorts", scans, model, output, 3)
    process.communicate(timeout=300)
    assert process.returncode == 9
    # Tables come at the end; what was finished is known without them.
    finished = [name for name, case in read_record(output).items() if case["complete"]]
    assert 1 <= len(finished) <= 3
    before = {path: path.stat().st_mtime_ns for name in finished for path in (output / name).rglob("*.png")}
    again = run(scans, model, output, mode="continue")
    assert [case.name for case in again.cases if case.already_done] == finished
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert_like_alone(output, alone)


def test_overwriting_removes_what_a_killed_run_has_left(
    scans: Path, model: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    start("tests.helpers.cohorts", scans, model, output, 2).communicate(timeout=300)
    result = run(scans, model, output, mode="overwrite")
    assert not any(case.already_done for case in result.cases)
    assert_like_alone(output, alone)


# --- several processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_do_every_scan_once(
    scans: Path, model: Path, alone: Path, tmp_path: Path, count: int
) -> None:
    output = tmp_path / "out"
    results = ended([segmenting(scans, model, output) for _ in range(count)])
    done = [case["case"] for result in results for case in result["cases"] if not case["already_done"]]
    assert sorted(done) == [f"scan_{n:02d}" for n in range(1, COUNT + 1)]
    # Each one knows the whole in the end.
    assert all(len(result["cases"]) == COUNT for result in results)
    assert_like_alone(output, alone)


def test_when_one_is_killed_the_others_finish_its_scans(
    scans: Path, model: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    killed = start("tests.helpers.cohorts", scans, model, output, 1)
    survivor = segmenting(scans, model, output)
    killed.communicate(timeout=300)
    assert killed.returncode in (9, 0)  # 0 where the other was quicker and left it nothing
    (result,) = ended([survivor])
    assert len(result["cases"]) == COUNT
    for name in TABLES:
        assert (output / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29511"},
        {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "7"},
    ],
    ids=["torchrun", "SLURM array"],
)
def test_processes_started_together_need_no_option(
    scans: Path, model: Path, alone: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    output = tmp_path / "out"
    second = {
        **environment,
        **({"RANK": "1", "LOCAL_RANK": "1"} if "RANK" in environment else {"SLURM_ARRAY_TASK_ID": "5"}),
    }
    ended([segmenting(scans, model, output, "", **each) for each in (environment, second)])
    assert_like_alone(output, alone)
    refused = segmenting(scans, model, output, "--overwrite", **environment)
    _, said = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "--overwrite" in said and "several processes" in said


# --- claims ------------------------------------------------------------------------------------------------------------------


def test_a_claim_is_made_once_and_given_back(tmp_path: Path) -> None:
    with Claims(tmp_path / "parts") as first, Claims(tmp_path / "parts") as second:
        assert first.take("scan") and first.take("scan")
        assert not second.take("scan")
        assert second.take("scan.claim2") and not first.take("scan.claim2")
        first.release("scan")
        assert second.take("scan")
        assert first.is_alive(second.token) and not first.is_alone()
    assert list((tmp_path / "parts").iterdir()) == []


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    claims = [Claims(tmp_path / "parts") for _ in range(8)]
    for name in ("a", "b", "c"):
        got: list[bool] = []
        threads = [threading.Thread(target=lambda c=c, n=name, g=got: g.append(c.take(n))) for c in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == 1
    for one in claims:
        one.__exit__()


def test_the_claim_of_a_process_that_is_gone_is_outbid_once(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    program = (
        "import os, sys; from pathlib import Path; from autoseg_lib.workflow.claims import Claims\n"
        "Claims(Path(sys.argv[1])).take('scan'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    (claim,) = folder.glob("*.claim1")
    with Claims(folder, beat_seconds=0.1) as first, Claims(folder, beat_seconds=0.1) as second:
        # Just now it was alive: nobody takes it before it has been silent for three beats.
        os.utime(claim)
        assert not first.take("scan")
        time.sleep(0.5)
        assert [first.take("scan"), second.take("scan")] == [True, False]
        assert first.is_alone() is False
        first.release("scan")
        first.sweep()
    assert not list(folder.glob("*.claim*"))


def test_another_computer_is_gone_after_minutes_of_silence(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        path = tmp_path / "scan.claim3"
        path.write_text(
            json.dumps({"host": "node17", "pid": 1, "started": 0.0, "token": "x"}), encoding="utf-8"
        )
        assert not claims.take("scan")
        old = time.time() - 310
        os.utime(path, (old, old))
        assert claims.take("scan")
        assert (tmp_path / "scan.claim4").exists()


def test_a_half_written_claim_counts_for_some_seconds(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        path = tmp_path / "scan.claim1"
        path.write_text("", encoding="utf-8")
        assert not claims.take("scan")
        old = time.time() - 20
        os.utime(path, (old, old))
        assert claims.take("scan")


def test_a_claim_of_ours_that_could_not_be_removed_blocks_nobody_here(tmp_path: Path) -> None:
    with Claims(tmp_path / "parts") as claims, Claims(tmp_path / "parts") as other:
        assert claims.take("scan")
        left = (tmp_path / "parts" / "scan.claim1").read_text(encoding="utf-8")
        claims.release("scan")
        # As on Windows, where a file that another program has open stays.
        (tmp_path / "parts" / "scan.claim1").write_text(left, encoding="utf-8")
        assert not other.take("scan")
        assert claims.take("scan") and not other.take("scan")
        claims.release("scan")
        assert other.take("scan")


def test_a_drive_that_does_not_answer_counts_as_somebody_at_work(tmp_path: Path) -> None:
    with Claims(tmp_path / "parts") as claims:
        # No file can have so long a name: the drive answers with an error that is not "not there".
        assert claims.is_alive("x" * 300)
        assert not claims.is_alive("x")


def test_another_model_at_the_same_time_is_refused(scans: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    start("tests.helpers.cohorts", scans, model, output, 4).communicate(timeout=300)
    with pytest.raises(ExportError, match="another model, other settings or other images"):
        segment(scans, model, output, make_settings(SegmentSettings, {"overlap": 0.25}), mode="continue")


# --- overlapping -------------------------------------------------------------------------------------------------------------


def test_steps_overlap_in_order_and_hold_three_at_a_time() -> None:
    alive, most, order = [0], [0], []
    lock = threading.Lock()
    working, reading_meanwhile, writing_meanwhile = threading.Event(), [False], [False]

    def count(change: int) -> None:
        with lock:
            alive[0] += change
            most[0] = max(most[0], alive[0])

    def read(item: int) -> int:
        count(1)
        time.sleep(0.05)
        reading_meanwhile[0] |= working.is_set()
        return item

    def work(item: int) -> int:
        working.set()
        time.sleep(0.1)
        working.clear()
        return item

    def write(item: int) -> None:
        time.sleep(0.05)
        writing_meanwhile[0] |= working.is_set()
        order.append(item)
        count(-1)

    Overlap(read, work, write).run(iter(range(10)))
    assert order == list(range(10))
    assert most[0] <= 3
    assert reading_meanwhile[0] and writing_meanwhile[0]


@pytest.mark.parametrize("where", ["items", "read", "work", "write"])
def test_a_fault_ends_the_whole_and_is_raised(where: str) -> None:
    written: list[int] = []

    def at(step: str, item: int) -> int:
        if step == where and item == 2:
            raise OSError(f"in {step}")
        return item

    def items() -> Iterator[int]:
        for number in range(100):
            yield at("items", number)

    with pytest.raises(OSError, match=f"in {where}"):
        Overlap(
            lambda i: at("read", i), lambda i: at("work", i), lambda i: written.append(at("write", i))
        ).run(items())
    # What was worked on before is written.
    assert written == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name in ("reading", "writing")]
