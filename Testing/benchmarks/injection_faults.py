"""Injections with random faults: limits, stops and journal kept; and after-flow against its prediction.

    python Testing/benchmarks/injection_faults.py [INJECTIONS] [--first SEED] [--kills N]

Part 1: simulated injections in virtual time (1000 unless told otherwise) through the real session, state machine,
interlock and pump role, against the simulated pump's firmware. Up to three faults each, of 27 kinds, at random times
and for random durations, beside a person who lets go, withdraws, decides and resets by chance. What truly happened
(plunger, cement out of the tip, orders as heard) is judged by `injection_room.judge`, which uses none of that code.

Part 2: the same in processes of their own that are killed by SIGKILL at random instants. A pipe to this process is the
witness of every order that was given and of the cement; the journal must know all of them, and the volumes.

Part 3: cement out of the tip after a hold and after a stop, against the prediction from the pressure that the pump
told (5 % noise), the live viscosity estimate, and the compliance that the pump believes in (nine tenths of the truth).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from injection_room import FAULTS, Room, judge
from sacroplasty.cement.after_flow import predict_after_flow
from sacroplasty.cement.aging import CementClock
from sacroplasty.cement.line import InjectionLine, cannula_line
from sacroplasty.cement.presets import PowerLawFluid, default_preset
from sacroplasty.cement.viscosity import ViscosityEstimator
from sacroplasty.devices.pump_protocol import Order
from sacroplasty.procedure.journal import read_journal
from sacroplasty.procedure.recovery import recover
from sacroplasty.simulation.pump import PumpMachine
from sacroplasty.simulation.world import PumpModel, Trocar, demonstration_world

SEED = 8
#: A session that was killed may lack this much of its volume: the step in which the journal follows, and a tick's flow.
LOST_ML = 0.05 + 0.5 * 0.05


def injections(first: int, number: int) -> bool:
    """Part 1. Whether everything was kept."""
    kinds: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    stops = resets = runs = broken = 0
    given_ml, excess_ml, longest_s, excess_all = 0.0, -np.inf, 0.0, []
    began = time.monotonic()
    # Journals of simulated injections need no disk: each of their entries would wait for it.
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=fast) as place:
        for seed in range(first, first + number):
            room = Room(seed, Path(place))
            truth = room.play()
            verdict = judge(truth, read_journal(room.path) if room.path.exists() else [])
            room.path.unlink(missing_ok=True)
            kinds.update(list(truth.faults))
            names = [name for _, name, _, _ in truth.orders]
            stops += sum(name == "stop" and before != "stop" for before, name in zip(["", *names], names, strict=False))
            runs += names.count("run")
            resets += names.count("reset")
            ended[room.session.state.phase if room.session.state is not None else "none"] += 1
            given_ml += sum(truth.given_ml.values())
            excess_ml = max(excess_ml, verdict.excess_ml)
            excess_all.append(verdict.excess_ml)
            if "run after stop" not in truth.faults:
                longest_s = max(longest_s, verdict.longest_way_after_stop_s)
            if not verdict.clean:
                broken += 1
                print(f"seed {seed}, {', '.join(truth.faults)}: {verdict}", flush=True)
            if (seed - first + 1) % 100 == 0:
                print(f"{seed - first + 1} injections, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"simulated injections: {number}, seeds {first} to {first + number - 1}, {given_ml:.0f} mL of cement")
    print("faults: " + ", ".join(f"{name} {kinds[name]}" for name in FAULTS))
    print(f"orders to run {runs}, stops {stops}, resets {resets}; ended {dict(ended)}")
    print(f"worst volume beyond a limit while the plunger moved: {max(excess_ml, 0.0):.3f} mL")
    print(f"longest way of the plunger after a stop, the pump's own defect apart: {longest_s:.2f} s")
    print(f"injections in which anything was not kept: {broken}")
    return not broken


def be_killed(seed: int, folder: Path, pipe: int) -> None:
    """An injection that tells its witness everything."""
    Room(seed, folder, faults={}, report=lambda line: os.write(pipe, line.encode())).play()
    os.write(pipe, b"end\n")


def kills(processes: int) -> bool:
    """Part 2. Whether every order and the volume were in the journal."""
    rng = np.random.default_rng([SEED, 2])
    lost = missing = killed = entries_total = 0
    worst_ml = 0.0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for number in range(processes):
            seed = 100_000 + number
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(read)
                try:
                    be_killed(seed, Path(place), write)
                finally:
                    os._exit(0)
            os.close(write)
            witness = os.fdopen(read, "rb")
            # A random number of lines later, so that the instant does not depend on how busy the machine is.
            heard = [witness.readline() for _ in range(int(rng.integers(20, 500)))]
            time.sleep(float(rng.uniform(0, 0.01)))
            os.kill(child, signal.SIGKILL)
            heard += witness.readlines()
            os.waitpid(child, 0)
            witness.close()
            lines = [line.decode().split() for line in heard if line.endswith(b"\n")]
            if ["end"] in lines:
                continue
            killed += 1
            path = Path(place) / f"injection-{seed:05d}.jsonl"
            entries = read_journal(path) if path.exists() else []
            entries_total += len(entries)
            told = [words[1] for words in lines if words[0] == "order" and words[1] != "stop"]
            written = [one["command"] for one in entries if one["event"] == "order" and one["command"] != "stop"]
            # One that is written down and was not given yet is on the safe side.
            if told != written[: len(told)]:
                lost += 1
                print(f"seed {seed}: orders {told} against the journal's {written}")
            session = recover(path) if path.exists() else None
            out_ml = max((float(words[1]) for words in lines if words[0] == "out"), default=0.0)
            if session is None and told:
                missing += 1
                print(f"seed {seed}: a session with orders was not recovered")
            recovered_ml = sum(session.given_ml.values()) if session is not None else 0.0
            # The pump tells what it believes, a little ahead of the tip: compare only what would be forgotten.
            worst_ml = max(worst_ml, out_ml - recovered_ml)
    print(f"processes killed: {killed} of {processes}, {entries_total} entries, {time.monotonic() - began:.0f} s")
    print(f"with an order that the journal does not know: {lost}; not recovered: {missing}")
    print(f"cement out of the tip that the journal does not know, worst: {worst_ml:.3f} mL (at most {LOST_ML:.3f})")
    return not lost and not missing and worst_ml <= LOST_ML and killed > 0


def after_flow() -> bool:
    """Part 3. Whether the prediction kept to 20 % or 0.05 mL."""
    rng = np.random.default_rng([SEED, 3])
    trocar = demonstration_world(0).trocar
    rows: dict[str, list[tuple[float, float]]] = {"hold": [], "stop": []}
    for _ in range(60):
        model = PumpModel(
            consistency_pa_sn=float(rng.uniform(60, 500)), compliance_ml_kpa=float(rng.uniform(0.0001, 0.0008))
        )
        cannula = replace(
            trocar, inner_diameter_mm=float(rng.choice([2.388, 1.8])), length_mm=float(rng.uniform(100, 150))
        )
        rate, seconds = float(rng.uniform(0.03, 0.15)), float(rng.uniform(4.0, 20.0))
        line = replace(
            cannula_line(11, cannula.inner_diameter_mm, cannula.length_mm),
            compliance_ml_per_kpa=0.9 * model.compliance_ml_kpa,
        )
        for kind, cases in rows.items():
            case = _one_after_flow(kind, model, cannula, line, rate, seconds, rng)
            if case is not None:
                cases.append(case)
    kept = True
    print(f"{'after':>6}{'cases':>7}{'true mL':>16}{'error mL, 95 % (worst)':>26}{'within 20 %':>13}{'0.05 mL':>9}")
    for kind, cases in rows.items():
        true, predicted = np.array(cases).T
        error = np.abs(predicted - true)
        relative, absolute = error <= 0.2 * true, error <= 0.05
        kept &= bool((relative | (error <= 0.005)).all() and absolute.all())
        print(
            f"{kind:>6}{len(cases):>7}{true.min():>8.3f} -{true.max():>6.3f}"
            f"{np.percentile(error, 95):>16.4f} ({error.max():.4f})"
            f"{relative.mean():>13.0%}{absolute.mean():>9.0%}"
        )
    return kept


def _one_after_flow(
    kind: str,
    model: PumpModel,
    cannula: Trocar,
    line: InjectionLine,
    rate_ml_s: float,
    seconds: float,
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """True and predicted cement out after a hold or stop; None when the pump had halted before by its limit."""
    machine, numbers = PumpMachine(model, cannula), count(1)
    estimator = ViscosityEstimator(line, model.flow_index)
    now, estimate = 0.0, None

    def order(command: str, **arguments: float) -> None:
        machine.order(Order(command, "bench", next(numbers), arguments).text(), 1, now)

    def wait() -> None:
        nonlocal now
        now += 0.1
        order("heartbeat")
        machine.tick(now)

    order("hello")
    order("arm")
    machine.tick(now)
    order("run", rate_ml_s=rate_ml_s, volume_ml=10.0, pressure_limit_kpa=2990.0)
    while now < seconds and machine.state == "running":
        wait()
        told = machine.told()
        estimate = estimator.update(now, told.pressure_kpa * float(1 + rng.normal(0, 0.05)), told.rate_ml_s)
    if machine.state != "running" or estimate is None:
        return None
    # As long as the estimate is not certain: the cement that the clock of a generic preset expects.
    expected = PowerLawFluid(default_preset().fluid(300.0).consistency_pa_sn, model.flow_index)
    relief = (model.largest_rate_ml_s, 5.0) if kind == "stop" else (0.0, 0.0)
    predicted = predict_after_flow(line, estimator, estimate, expected, *relief)
    assert predicted is not None
    before_ml, began_s = machine.syringe.out_ml, now
    order(kind)
    while now < began_s + 120.0:
        wait()
    return machine.syringe.out_ml - before_ml, predicted.volume_ml(120.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("injections", nargs="?", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--kills", type=int, default=20)
    asked = parser.parse_args()
    CementClock()  # The presets are read once, before anything is timed or killed.
    kept = [after_flow()]
    if asked.kills:
        kept.append(kills(asked.kills))
    if asked.injections:
        kept.append(injections(asked.first, asked.injections))
    print("all kept" if all(kept) else "NOT all kept")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
