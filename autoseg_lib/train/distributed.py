"""Several processes that train one model together: how they agree, add up, and notice that one of them is gone.

The first process alone reads the clock, validates, writes files and speaks. The others follow its decisions. Alone, every
method is a plain call and torch.distributed stays untouched.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from autoseg_lib.errors import AutosegError, SettingsError, counted
from autoseg_lib.train.launch import Place

T = TypeVar("T")

# A process whose connection closes is noticed at once; these limits are for one that falls silent (a computer that lost
# power, a cable). Between two steps nothing takes longer than minutes; the first process may read data for hours.
STEP_TIMEOUT = datetime.timedelta(minutes=30)
PATIENT_TIMEOUT = datetime.timedelta(hours=24)
# How long processes wait for each other to begin: a cluster may start them minutes apart.
MEETING_TIMEOUT = datetime.timedelta(minutes=15)
# How long one that notices a loss waits for the reason: the process that fails tells it before it goes.
REASON_SECONDS = 2.0

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class TeammateLostError(AutosegError):
    """Another process of the same training ended; ``told`` says whether somebody has said so already."""

    def __init__(self, text: str, told: bool) -> None:
        super().__init__(text)
        self.told = told


class Team:
    """The processes that train one model together.

    Attributes:
        place: where this process stands.
        lost: whether another process is gone; the connections cannot be used any more.
    """

    def __init__(self, place: Place | None = None, device: str = "cpu") -> None:
        """Meets the others; returns once all are there.

        Args:
            place: where this process stands; None: alone.
            device: "cpu" or "cuda".

        Raises:
            SettingsError: more processes than GPUs, or they cannot meet.
        """
        self.place = place or Place()
        self.lost = False
        self.device = torch.device(device)
        self._near: Any = None
        self._patient: Any = None
        if self.world == 1:
            return
        if device not in ("cpu", "cuda"):
            raise SettingsError(
                f"training with several processes needs NVIDIA GPUs or the CPU; this computer has '{device}'. Start the command "
                "without torchrun."
            )
        self._meet()
        if device == "cuda":
            self._take_gpu()

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.place.rank

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.place.world

    @property
    def is_first(self) -> bool:
        """Whether this is the process that validates, writes and speaks."""
        return self.rank == 0

    def _meet(self) -> None:
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        address, port = self.place.address, self.place.port
        try:
            self._store: Any = dist.TCPStore(
                address,
                port,
                self.world,
                is_master=self.is_first and not self.place.meeting_kept,
                timeout=MEETING_TIMEOUT,
                wait_for_workers=False,
            )
            own = dist.PrefixStore(
                f"autoseg/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", self._store
            )
            self._store = own
            dist.init_process_group(
                backend, store=own, rank=self.rank, world_size=self.world, timeout=STEP_TIMEOUT
            )
            self._patient = dist.new_group(backend="gloo", timeout=PATIENT_TIMEOUT)
            hosts = self.gather(platform.node())
            self._near = self._group_by_host(hosts)
        except (RuntimeError, ValueError) as error:
            raise SettingsError(
                f"the {self.world} processes could not meet at {address}, port {port}: {_first_line(error)}. All must be "
                "started, reach each other over the network, and the port must be free (MASTER_ADDR and MASTER_PORT set others)."
            ) from error

    def _group_by_host(self, hosts: list[str]) -> Any:
        mine = None
        for host in dict.fromkeys(hosts):
            ranks = [rank for rank, name in enumerate(hosts) if name == host]
            group = dist.new_group(ranks, backend="gloo", timeout=PATIENT_TIMEOUT)
            if self.rank in ranks:
                mine, self._near_first = group, ranks[0]
        return mine

    def _take_gpu(self) -> None:
        count = torch.cuda.device_count()
        # SLURM may show each process its own GPU only, which then is number 0 for each.
        index = self.place.local_rank if self.place.local_rank < count else 0
        torch.cuda.set_device(index)
        self.device = torch.device("cuda", index)
        taken = self.gather(f"{platform.node()} {torch.cuda.get_device_properties(index).uuid}")
        if len(set(taken)) < self.world:
            raise SettingsError(
                f"{self.world} processes were started for {counted(len(set(taken)), 'GPU')}: start one for each GPU "
                "(torchrun --nproc-per-node, or --ntasks-per-node and --gpus-per-node in the sbatch file)."
            )

    # --- agreeing -----------------------------------------------------------------------------------------------------

    def any(self, flag: bool, patient: bool = False) -> bool:
        """Returns whether the flag is set in any process.

        Args:
            flag: this process's.
            patient: the others may take hours to come (the first one validates).
        """
        if self.world == 1:
            return flag
        return self._reduced([float(flag)], dist.ReduceOp.MAX, patient)[0] > 0

    def mean(self, *values: float) -> list[float]:
        """Returns the mean of each number over the processes."""
        if self.world == 1:
            return list(values)
        return [total / self.world for total in self._reduced(list(values), dist.ReduceOp.SUM)]

    def _reduced(self, values: list[float], operation: Any, patient: bool = False) -> list[float]:
        with self.noticing():
            tensor = torch.tensor(values, dtype=torch.float64)
            dist.all_reduce(tensor, operation, group=self._patient if patient else None)
            return [float(value) for value in tensor]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the sum of a tensor over the processes; gradients pass through.

        The gradient that reaches each process is the sum of what all processes send back. If all compute the same number
        from the sum, each receives ``world`` times its part, which the mean that DistributedDataParallel takes over the
        processes makes right again.
        """
        if self.world == 1:
            return tensor
        result: torch.Tensor = _Sum.apply(tensor)
        return result

    def from_first(self, value: T) -> T:
        """Returns what the first process passed."""
        if self.world == 1:
            return value
        with self.noticing():
            box = [value]
            dist.broadcast_object_list(box, src=0, group=self._patient)
            return box[0]

    def gather(self, value: T) -> list[T]:
        """Returns what each process passed, by rank."""
        if self.world == 1:
            return [value]
        with self.noticing():
            found: list[Any] = [None] * self.world
            dist.all_gather_object(found, value, group=self._patient)
            return found

    def first_does(self, work: Callable[[], T]) -> T:
        """The first process works, the others wait for its result.

        Raises:
            TeammateLostError: in the others, where the work failed.
            whatever the work raises: in the first.
        """
        return self._one_does(work, self._patient, 0)

    def once_per_computer(self, work: Callable[[], T]) -> T:
        """One process of each computer works, the others on it wait for its result. Raises: see first_does."""
        return self._one_does(work, self._near, getattr(self, "_near_first", 0))

    def _one_does(self, work: Callable[[], T], group: Any, worker: int) -> T:
        if self.world == 1:
            return work()
        if self.rank != worker:
            with self.noticing():
                box: list[Any] = [None, None]
                dist.broadcast_object_list(box, src=worker, group=group)
            if box[1] is not None:
                raise TeammateLostError(box[1], told=True)
            return box[0]  # type: ignore[no-any-return]
        try:
            result = work()
        except BaseException as error:
            # Should the others be gone as well, it is this error that counts.
            with contextlib.suppress(TeammateLostError), self.noticing():
                dist.broadcast_object_list(
                    [None, str(error) or type(error).__name__], src=worker, group=group
                )
            raise
        with self.noticing():
            dist.broadcast_object_list([result, None], src=worker, group=group)
        return result

    # --- training -----------------------------------------------------------------------------------------------------

    def fabric(self, device: str, precision: str) -> Fabric:
        """Returns the Fabric that moves tensors and adds up gradients.

        Args:
            device: "cpu", "cuda" or "mps".
            precision: "32", "bf16" or "16".
        """
        # Fabric reports the hardware it found and gives tips for clusters; the plan has said the first already.
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        # A matter of speed that concerns the last layer's few weights; in the order of values that is quickest for all others.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.world == 1:
                # Named, so that Fabric does not look for a cluster by itself and count other tasks of a job.
                return Fabric(
                    accelerator=device,
                    devices=1,
                    precision=_PRECISIONS[precision],  # type: ignore[arg-type]
                    plugins=LightningEnvironment(),
                )
            strategy = DDPStrategy(
                cluster_environment=_Environment(self.place),
                timeout=STEP_TIMEOUT,
                # Layers may be frozen for some epochs, and a network may have outputs that are not always used.
                find_unused_parameters=True,
            )
            fabric = Fabric(
                accelerator=device,
                devices=[self.device.index] if device == "cuda" else 1,
                num_nodes=self.world,
                strategy=strategy,
                precision=_PRECISIONS[precision],  # type: ignore[arg-type]
            )
            fabric.launch()
        return fabric

    def with_shared_statistics(self, network: nn.Module) -> nn.Module:
        """Returns the network with batch statistics taken over all processes; on the CPU, where torch has none, as it is."""
        if self.world == 1 or self.device.type != "cuda":
            return network
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def share(self, batch_size: int) -> int:
        """Returns how many samples of a batch are this process's.

        Raises:
            SettingsError: the batch cannot be shared out evenly.
        """
        if batch_size % self.world == 0:
            return batch_size // self.world
        lower, upper = batch_size // self.world * self.world, -(-batch_size // self.world) * self.world
        fitting = f"{lower} or {upper}" if lower else str(upper)
        raise SettingsError(
            f"batch_size = {batch_size} cannot be shared out evenly by {self.world} processes (batch_size counts the images of "
            f"all of them together). Use {fitting}, or another number of processes."
        )

    # --- losing one ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def noticing(self) -> Iterator[None]:
        """Turns the errors of broken connections into one plain message.

        Raises:
            TeammateLostError: another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not _is_connection_error(error):
                raise
            self.lost = True
            reason, told = self._reason()
            text = reason or f"another of the {self.world} processes {_what_happened(error)}"
            raise TeammateLostError(
                f"{text}. Training cannot go on without it, so all processes end. What was saved last is kept: start the same "
                "command again to go on from there.",
                told,
            ) from error

    def tell_failure(self, error: BaseException) -> None:
        """Leaves the reason for the others, before this process ends."""
        if self.world == 1 or isinstance(error, TeammateLostError):
            return
        text = f"process {self.rank + 1} of {self.world} (on {platform.node()}) ended: {error or type(error).__name__}"
        with contextlib.suppress(RuntimeError):
            self._store.set("failure", text)

    def _reason(self) -> tuple[str, bool]:
        """Returns (why a process ended if it said so, whether this was shown already)."""
        until = time.monotonic() + REASON_SECONDS
        try:
            while not self._store.check(["failure"]) and time.monotonic() < until:
                time.sleep(0.1)
            reason = self._store.get("failure").decode() if self._store.check(["failure"]) else ""
            return reason.rstrip("."), self._store.add("told", 1) > 1
        except RuntimeError:
            # The store went with the first process: the next one speaks.
            return "", self.rank != 1

    def close(self) -> None:
        """Leaves the others. After a loss the connections are left to the system: closing them could wait for ever."""
        if self.world > 1 and not self.lost and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Team()


@contextlib.contextmanager
def training_team(place: Place, device: str) -> Iterator[Team]:
    """Meets the others and leaves them at the end; whatever ends the work early is told to them.

    Args: see Team.
    """
    team = Team(place, device)
    try:
        yield team
    except BaseException as error:
        team.tell_failure(error)
        raise
    finally:
        team.close()


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the gradients."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _Environment(ClusterEnvironment):
    """What Fabric asks about the cluster. Each process is its own node of one device: which one was chosen already."""

    creates_processes_externally = True

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def main_address(self) -> str:
        return self.place.address

    @property
    def main_port(self) -> int:
        return self.place.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.place.world

    def set_world_size(self, size: int) -> None:
        """The launcher decided it."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """The launcher decided it."""

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self.place.rank


def _is_connection_error(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    # gloo raises plain RuntimeErrors.
    text = str(error).lower()
    return any(word in text for word in ("gloo", "connection", "socket", "timed out", "broken pipe", "nccl"))


def _what_happened(error: RuntimeError) -> str:
    text = str(error).lower()
    if "closed by peer" in text or "reset by peer" in text or "broken pipe" in text:
        return "ended without a word (killed, out of memory, or its computer failed)"
    if "timed out" in text or "timeout" in text:
        return "has not answered for a long time"
    return f"cannot be reached ({_first_line(error)})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
