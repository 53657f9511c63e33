"""DeepSpeed: its configuration out of params and run settings, what is refused beforehand, and the engine itself.

Three things are taken out of DeepSpeed's hands. The learning rate is set here from the step's number (its scheduler stands
still when a step is skipped). The loss is divided by global counts before it reaches the engine, which adds gradients up over
ranks (stage 3 can only average; there it is undone). How many micro-batches make a step is the loop's affair
(`managed_gradient_accumulation` off).
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pipeline.stage import UserError
from trainer.planning import REDUCE_BUCKET, Offload, running_stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer.model.transformer import Settle, Transformer


Schedule = Annotated[
    Literal["constant", "cosine", "wsd", "1-sqrt"],
    Meta(description="wsd, 1-sqrt: constant, then at the end a decay, linear or as 1 - the root of its time (arXiv:2405.18392)"),
]


@dataclass(frozen=True)
class Optimization:
    """AdamW (arXiv:1711.05101) with warm-up and a schedule. Part of a training's identity."""

    lr: Annotated[float, Meta(gt=0, le=1, description="peak learning rate")] = 3e-3
    schedule: Schedule = "cosine"
    warmup_steps: Annotated[int, Meta(ge=0, description="steps of linear warm-up")] = 20
    decay: Annotated[float, Meta(gt=0, le=1, description="wsd, 1-sqrt: share of the steps that decay")] = 0.2
    final_lr: Annotated[float, Meta(ge=0, le=1, description="learning rate at the end, as a share of the peak")] = 0.1
    betas: Annotated[tuple[float, float], Meta(description="decay rates of AdamW's two moments")] = (0.9, 0.95)
    eps: Annotated[float, Meta(gt=0)] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="of matrices; norms have none")] = 0.1
    clip: Annotated[float, Meta(ge=0, description="largest norm of the gradient; 0: unlimited")] = 1.0
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Meta(description="of weights and activations; bf16 for GPUs, fp16 for those that have no bf16: the optimizer keeps fp32"),
    ] = "fp32"

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must lie in [0, 1); set both, for example [0.9, 0.95]")

    def stable_steps(self, total: int) -> int:
        """Steps whose learning rate stays the same when `total` grows."""
        match self.schedule:
            case "constant":
                return total
            case "wsd" | "1-sqrt":
                return math.floor(total * (1 - self.decay))
            case "cosine":
                return min(self.warmup_steps, total)

    def lr_at(self, step: int, total: int) -> float:
        """Learning rate of the step with this number (0 … total - 1)."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        start = max(self.warmup_steps, self.stable_steps(total))
        # the last step already has the final rate
        done = (step - start + 1) / max(1, total - start) if step >= start else 0.0
        match self.schedule:
            case "constant":
                share = 1.0
            case "wsd":
                share = 1 - (1 - self.final_lr) * done
            case "1-sqrt":
                share = 1 - (1 - self.final_lr) * math.sqrt(done)
            case "cosine":
                share = self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * done)) / 2
        return self.lr * share


@dataclass(frozen=True)
class TrainRun:
    """How a training is spread over machines. Never part of identity."""

    workers: Annotated[int, Meta(ge=0, description="ranks; 0: one rank inside the driver, without Ray")] = 2
    zero: Annotated[
        int,
        Meta(
            ge=0,
            le=3,
            description="ZeRO stage: 1 shards optimizer states, 2 gradients too, 3 weights too; one rank in fp32, nothing offloaded: 0",
        ),
    ] = 1
    offload: Annotated[
        Offload,
        Meta(description="kept in the host's memory: the optimizer's states (ZeRO 1 to 3), at ZeRO 3 the weights as well"),
    ] = "none"
    recompute: Annotated[
        Literal["none", "layer"], Meta(description="layer: make a layer's activations again in the backward pass instead of keeping them")
    ] = "none"
    compile: Annotated[bool, Meta(description="let torch.compile fuse each layer: a minute at the start, then faster")] = False
    micro_batch: Annotated[int, Meta(ge=1, description="rows a rank computes at once")] = 8
    cpus_per_worker: Annotated[float, Meta(gt=0, description="CPUs reserved for a rank")] = 1.0
    gpus_per_worker: Annotated[int, Meta(ge=0, le=1, description="GPUs of a rank")] = 0
    threads: Annotated[int, Meta(ge=1, description="threads of a rank's matrix products")] = 1
    checkpoint_every: Annotated[int, Meta(ge=1, description="steps between checkpoints")] = 50
    keep_last: Annotated[int, Meta(ge=1, description="newest checkpoints that are kept, to go on from after a fault")] = 2
    keep_best: Annotated[
        int, Meta(ge=0, description="checkpoints of the best validations of pretrain or sft, saved and kept; 0: none is")
    ] = 0
    keep_every: Annotated[int, Meta(ge=0, description="steps between checkpoints that are kept for good; 0: none is")] = 0
    restarts: Annotated[int, Meta(ge=0, description="restarts of all ranks after one was lost, in a row without a checkpoint")] = 2
    tensorboard: Annotated[bool, Meta(description="write the numbers for TensorBoard, too, beside the checkpoints")] = False
    wandb: Annotated[str, Meta(description="project of Weights & Biases that gets the numbers, too; empty: none")] = ""
    show_every: Annotated[int, Meta(ge=0, description="steps between texts that the model writes to be read; 0: none; pretrain alone")] = 0
    profile_step: Annotated[int, Meta(ge=0, description="step of which every rank writes a profile; 0: none")] = 0
    deterministic: Annotated[bool, Meta(description="refuse GPU operations whose result varies from run to run")] = False

    @property
    def world_size(self) -> int:
        return max(1, self.workers)

    def as_it_runs(self, precision: str) -> TrainRun:
        """These settings at the ZeRO stage that runs, which for a rank alone may be another than is asked for."""
        return replace(self, zero=running_stage(self.zero, world=self.world_size, precision=precision, offload=self.offload))

    @property
    def resources(self) -> dict[str, float]:
        """What a rank reserves, as Ray names it."""
        return {"CPU": self.cpus_per_worker, **({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})}

    def fitting(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many of the ranks can be placed, each whole on one node. A node is what it has, as Ray names it."""

        def on(node: Mapping[str, float]) -> int:
            # three ranks of 0.1 fit into 0.3, whatever a float makes of it
            return int(min(self.workers, *(node.get(kind, 0.0) / wanted + 1e-6 for kind, wanted in self.resources.items())))

        return min(self.workers, sum(map(on, nodes)))

    def require_room(self, name: str, *nodes: Mapping[str, float]) -> None:
        """Raise UserError where the ranks could never all be placed on these nodes: Ray would wait for ever. A cluster of which only the
        total is known counts as one node."""
        fitting = self.fitting(nodes)
        if fitting == self.workers:
            return
        wanted = self.resources
        total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in wanted}
        if self.fitting([total]) == fitting:
            kind = min(wanted, key=lambda kind: total[kind] / wanted[kind])
            reason = f"{self.workers} ranks need {wanted[kind] * self.workers:g} {kind}s, the cluster has {total[kind]:g}"
        else:
            each = " and ".join(f"{amount:g} {kind}s" for kind, amount in wanted.items())
            reason = f"each rank needs {each} on one node, the cluster's {len(nodes)} nodes have room for {fitting} ranks"
        cpus = [node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= self.gpus_per_worker]
        mend = f"set {name}.run."
        if fitting:
            mend += f"workers={fitting}, or add nodes"
        elif not total.get("GPU", 1):
            mend += "gpus_per_worker=0, or add nodes"
        elif any(cpus):
            share = max(cpus) / math.ceil(self.workers / cpus.count(max(cpus)))
            mend += f"cpus_per_worker={math.floor(1000 * share) / 1000:g}, or add nodes"
        else:
            mend = "add nodes that have both" if self.gpus_per_worker else "add nodes that have some"
        raise UserError(f"{name}.run.workers={self.workers}: {reason}; {mend}")


class Stopped(Exception):
    """A rank has ended as it was asked to, after a checkpoint."""


def preflight(name: str, settings: Optimization, run: TrainRun, sources: Sequence[str] = (), roles: Collection[str] = ()) -> None:
    """Refuse before anything starts what DeepSpeed would only refuse on the ranks. `name` is the stage's in the recipe.

    Raises UserError with the mend.
    """
    if settings.precision != "fp32" and run.zero == 0:
        raise UserError(f"{name}.run.zero=0: it would add up gradients in {settings.precision}, the {name}.precision; set it to 1, 2 or 3")
    if settings.precision == "fp16" and not run.gpus_per_worker:
        raise UserError(f"{name}.precision=fp16: is for GPUs; set {name}.run.gpus_per_worker=1, or {name}.precision=fp32")
    if run.offload != "none" and run.zero == 0:
        raise UserError(f"{name}.run.offload={run.offload}: ZeRO 0 shards nothing that could be moved; set {name}.run.zero to 1, 2 or 3")
    if run.offload == "parameters" and run.zero != 3:
        raise UserError(f"{name}.run.offload=parameters: only ZeRO 3 shards them; set {name}.run.zero=3, or {name}.run.offload=optimizer")
    if run.compile and run.as_it_runs(settings.precision).zero == 3:
        raise UserError(f"{name}.run.compile=true: ZeRO 3 gathers weights in hooks that a compiled layer skips; set {name}.run.zero=2")
    if run.workers and run.threads > max(1, run.cpus_per_worker):
        raise UserError(
            f"{name}.run.threads={run.threads}: more than the {run.cpus_per_worker:g} CPUs of a rank, for which ranks would fight; "
            f"set {name}.run.cpus_per_worker={run.threads}, or {name}.run.threads={max(1, int(run.cpus_per_worker))}"
        )
    for package, wanted in (("tensorboard", run.tensorboard), ("wandb", run.wandb)):
        if wanted and find_spec(package) is None:
            raise UserError(f'{name}.run.{package}: it is not installed; pip install "crawl2chat[{package}]"')
    if run.workers == 0 and run.gpus_per_worker:
        raise UserError(
            f"{name}.run.workers=0: trains inside the driver, which has no GPU assigned; set it to 1, or {name}.run.gpus_per_worker=0"
        )


def deepspeed_config(settings: Optimization, run: TrainRun) -> dict[str, Any]:
    """The whole configuration; every choice DeepSpeed would make by default and that matters is made here."""
    zero: dict[str, Any] = {"stage": run.zero}
    if run.zero:
        # on a CPU there is no memory to be fragmented and no collective that runs beside: only copies
        bare_cpu = run.offload == "none" and not run.gpus_per_worker
        zero |= {"contiguous_gradients": not bare_cpu, "overlap_comm": run.zero == 3 and not bare_cpu}
    if run.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": run.gpus_per_worker > 0}
    if run.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": run.gpus_per_worker > 0}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": run.micro_batch,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": zero,
        "gradient_allreduce_op": "mean" if run.zero == 3 else "sum",
        "gradient_clipping": settings.clip,
        "checkpoint": {"tag_validation": "Fail"},
        "steps_per_print": 10**9,
        "zero_force_ds_cpu_optimizer": False,  # torch's own is fused too, and needs no compiler
    }
    if settings.precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 0}  # dynamic
    if settings.precision == "bf16":
        config["bf16"] = {"enabled": True}
        config["communication_data_type"] = "fp32"  # sums over ranks; fp16 is sent as it is, which its loss scale allows for
    if settings.precision != "fp32":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


class Engine:
    """A DeepSpeed engine around `module`, whose forward gives a loss already divided by its global denominator."""

    def __init__(self, module: nn.Module, settings: Optimization, run: TrainRun, total_steps: int) -> None:
        import torch

        self.settings, self.run, self.total_steps = settings, run, total_steps
        deepspeed = import_deepspeed(next(module.parameters()).device)
        if run.zero == 3:
            from deepspeed.utils import set_z3_leaf_modules

            from trainer.model.transformer import Block

            # a layer is gathered as a whole: in one collective instead of ten, and alike on all ranks whichever experts run
            set_z3_leaf_modules(module, [Block])
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in parameters if dimensions(parameter) > 1], "weight_decay": settings.weight_decay},
            {"params": [parameter for parameter in parameters if dimensions(parameter) == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
        config = deepspeed_config(settings, run)
        if run.zero == 0:
            config["gradient_clipping"] = settings.clip or math.inf  # so that `clipped` is called
        # a buffer of this size is held, however small the model
        config["zero_optimization"]["reduce_bucket_size"] = min(REDUCE_BUCKET, sum(map(elements, parameters)))
        with redirect_stdout(io.StringIO()):  # at bf16 it prints its memory, part by part
            self.deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self.norm = 0.0
        if run.zero == 0:
            self.deepspeed.clip_fp32_gradients = self.clipped
            # a rank alone has nothing to add up: its gradients would be copied into one buffer and back
            self.deepspeed.enable_backward_allreduce = self.deepspeed.world_size > 1
        if run.zero == 3:
            self.deepspeed.optimizer.flatten = flattened
        self.averaged_over = self.deepspeed.world_size if run.zero == 3 else 1

    def clipped(self) -> None:
        """Clip the gradients at stage 0, where DeepSpeed would not tell their norm, in the midst of its step: they have been reduced."""
        from torch import nn

        self.norm = float(nn.utils.clip_grad_norm_(self.deepspeed.module.parameters(), self.settings.clip or math.inf))

    def forward(self, *inputs: Any) -> Any:
        return self.deepspeed(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch; the sum over micro-batches and ranks is what `step` applies."""
        self.deepspeed.backward(loss * self.averaged_over, scale_wrt_gas=False)

    def step(self, number: int) -> float | None:
        """Apply the gradients at this step's learning rate; returns their norm before clipping, or None where fp16 had no room for
        them: then nothing is applied, and they are scaled less from now on. UserError where they cannot be scaled less."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(number, self.total_steps)
        try:
            self.deepspeed.step()
        except Exception as error:
            if "loss scale" not in str(error):
                raise
            raise UserError(
                f"step {number + 1}: no scale is left at which fp16 has room for the gradients; lower lr, or set precision=bf16"
            ) from None
        if self.settings.precision != "fp32" and self.run.zero in (1, 2) and self.run.offload != "none":
            self._forget_gradients()
        if self.settings.precision == "fp16" and self.deepspeed.optimizer.overflow:
            return None
        return self.norm if self.run.zero == 0 else float(self.deepspeed.get_global_grad_norm())

    def _forget_gradients(self) -> None:
        """DeepSpeed keeps the sums of a step that it did not take where the optimizer is offloaded, and would add to them."""
        sums = self.deepspeed.optimizer.averaged_gradients  # others read this very dict
        sums.update(dict.fromkeys(sums))

    def snapshot(self, directory: str, tag: str) -> dict[str, io.BytesIO]:
        """What this rank's files of a checkpoint hold, by path, as it is now: whatever is trained after it does not show. Nothing is
        written yet. Every rank must call it."""
        files: dict[str, io.BytesIO] = {}

        def hold(state_dict: Any, path: str) -> None:
            files[path] = serialized(state_dict)

        self.deepspeed.checkpoint_engine.save = hold
        self.deepspeed._copy_recovery_script = lambda directory: None  # it would be written here and now
        self.deepspeed.save_checkpoint(directory, tag=tag, save_latest=False)
        return files

    def read_universal(self, read: Callable[[], None]) -> None:
        """Call `read` while DeepSpeed takes what it loads for a universal checkpoint, and mend what it leaves wrong: counts of steps on
        the CPU whatever the device; at stage 3 all parameters share one count, which then grows for each of them, and one weight decay."""
        optimizer = self.deepspeed.optimizer.optimizer
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        self.deepspeed._config.load_universal_checkpoint = True
        try:
            read()
        finally:
            self.deepspeed._config.load_universal_checkpoint = False
        for parameter, state in optimizer.state.items():
            state["step"] = state["step"].to(parameter.device, copy=True)
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one row, for DeepSpeed to scale in place: no copy where the tensors lie side by side, as its gradients at ZeRO 3 do.
    The next step's first micro-batch writes over them."""
    import torch

    first, end = tensors[0], tensors[0].storage_offset()
    for tensor in tensors:
        same = tensor.dtype == first.dtype and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or tensor.storage_offset() != end or not tensor.is_contiguous():
            return torch.cat([tensor.reshape(-1) for tensor in tensors])
        end += tensor.numel()
    return first.as_strided((end - first.storage_offset(),), (1,))


def serialized(state: Any) -> io.BytesIO:
    """What `torch.load` reads, in the host's memory. Not a zip, whose checksums would take half as long again."""
    import torch

    content = io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=False)
    return content


def settling(settings: Optimization, run: TrainRun, device: torch.device) -> Settle:
    """How the engine wants a model's parameters: on the device in their precision, at ZeRO 3 this rank's part of each alone."""
    import torch
    from torch import nn

    from trainer.model.transformer import on

    place = on(device, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision])
    if run.zero < 3:
        return place
    zero = import_deepspeed(device).zero
    config = deepspeed_config(settings, run)

    def settle(parameter: nn.Parameter) -> None:
        place(parameter)
        zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=config)

    return settle


def dimensions(parameter: Tensor) -> int:
    """Of the whole parameter, also where it is sharded."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def elements(parameter: Tensor) -> int:
    """Of the whole parameter, also where it is sharded."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def full_state(model: Transformer, keep: bool = True, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All weights by name, copied to a device, whatever their sharding; none where not `keep`. Every rank must call it. A rank that
    keeps nothing holds no more than one whole parameter at a time."""
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        with made_whole([tensor]):
            if keep:
                found[name] = tensor.detach().to(device, copy=True)
    return found


def copied(model: Transformer, keep: bool = True) -> Transformer:
    """A whole copy of a model, sharded or not, on its device and in its precision; where not `keep`, one without weights. Every rank
    must call it."""
    from trainer.model.transformer import Transformer

    state = full_state(model, keep, model.model.norm.weight.device)
    copy = Transformer(model.config, seed=None)
    if keep:
        copy.load_state_dict(state, assign=True)
    if model.config.tie_word_embeddings:
        copy.lm_head.weight = copy.model.embed_tokens.weight
    return copy


def whole(model: Transformer, keep: bool = True) -> Transformer:
    """The model itself, or where its weights are sharded a copy as of `copied`, for a rank to use without the others: in a sharded model
    all ranks meet at every layer. Every rank must call it."""
    return copied(model, keep) if is_sharded(next(model.parameters())) else model


def gathered(model: Transformer) -> AbstractContextManager[None]:
    """The model's weights whole on every rank, for as long as the block runs."""
    return made_whole(model.parameters())


@contextmanager
def made_whole(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Parameters and buffers whole on every rank, for as long as the block runs."""
    sharded = [tensor for tensor in tensors if is_sharded(tensor)]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded):
        yield


def is_sharded(tensor: Tensor) -> bool:
    """Whether ranks hold parts of it, as at ZeRO 3."""
    return hasattr(tensor, "ds_id")


def set_up_device(run: TrainRun) -> torch.device:
    """This rank's device, with threads and determinism set."""
    import torch

    torch.set_num_threads(run.threads)
    if run.gpus_per_worker:
        if run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or its matrix products are refused
        torch.use_deterministic_algorithms(run.deterministic)
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))  # as DeepSpeed has it, which Ray's own choice need not be
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed for this device, silent but for errors: the user reads this project's own lines."""
    os.environ["DS_ACCELERATOR"] = device.type  # otherwise it looks for every device it knows of
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of names DeepSpeed still uses
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        # gloo serves as well, and this operation would be compiled for minutes at its first use
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
