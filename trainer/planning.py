"""What a training needs: parameters, arithmetic, memory, time, money, energy. Pure functions of values, without torch.

Shapes are `ModelConfig`s that are resolved; sizes are counts of parameters or bytes, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from trainer.model.config import ModelConfig

Offload = Literal["none", "optimizer", "parameters"]
ZERO_STAGES = (0, 1, 2, 3)
CHINCHILLA = 20  # tokens a parameter (arXiv:2203.15556, table 3, rounded as everyone does)
# DeepSpeed's own defaults, elements: gradients reduced at once; whole weights held at once (stage 3)
REDUCE_BUCKET = 500_000_000
LIVE_PARAMETERS = 1_000_000_000
LOGITS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}  # elements: what fits a core's cache; 256 MiB of fp32
LOGITS_KEPT = 1 << 23  # 32 MiB of fp32: to make so few again takes longer than to keep them
POSITIONS_AT_LEAST = 64  # with fewer, reading the output layer's weights takes longer than multiplying by them
CONVERTED = 26  # bytes a parameter of a universal checkpoint while it is made, as measured: 24, and what its many files add


@dataclass(frozen=True)
class Assumptions:
    """What a plan assumes of a device and of what it costs; `planning=h100`, `a100` and `cpu` are sets of them. Never part of identity."""

    device: Annotated[str, Meta(description="name of the device a rank runs on, shown in the plan; a CPU's has CPU in it")] = "H100 SXM"
    bf16_tflops: Annotated[float, Meta(gt=0, description="peak of a device in bf16, dense matrices, TFLOP/s")] = 989.0
    fp32_tflops: Annotated[float, Meta(gt=0, description="its peak in fp32, TFLOP/s")] = 67.0
    mfu: Annotated[float, Meta(gt=0, le=1, description="share of the peak that the training reaches")] = 0.4
    memory_gb: Annotated[float, Meta(gt=0, description="memory of a device, GB (10^9 bytes)")] = 80.0
    usable_memory: Annotated[float, Meta(gt=0, le=1, description="share of it that a training can fill; the rest is lost to fragments")] = (
        0.9
    )
    price_per_hour: Annotated[float, Meta(ge=0, description="of a device, dollars")] = 2.0
    watts: Annotated[float, Meta(ge=0, description="drawn by a device and its share of the host")] = 1275.0
    pue: Annotated[float, Meta(ge=1, description="energy of the whole building over that of its computers")] = 1.2
    co2_g_per_kwh: Annotated[float, Meta(ge=0, description="carbon dioxide of the electricity, grams a kWh")] = 480.0
    attention: Annotated[
        Literal["causal", "full", "none"],
        Meta(description="pairs of tokens counted as work: those a causal model needs, all, or none as in the GPT-3 paper"),
    ] = "causal"

    def tflops(self, precision: str) -> float:
        """The device's peak."""
        return self.fp32_tflops if precision == "fp32" else self.bf16_tflops

    @property
    def usable_bytes(self) -> float:
        """Of a device's memory."""
        return self.memory_gb * 1e9 * self.usable_memory


@dataclass(frozen=True)
class Parameters:
    """Parameters by part. `total` counts the matrices; `exact` everything a checkpoint holds."""

    embedding: int
    unembedding: int  # 0 where the embedding is the output layer too
    attention: int  # queries, keys, values, output
    mlp: int  # feed-forward layers, all experts
    idle: int  # of `mlp`: experts that a token is not sent to
    router: int
    positions: int
    norms: int
    biases: int

    @property
    def total(self) -> int:
        return self.embedding + self.unembedding + self.attention + self.mlp

    @property
    def active(self) -> int:
        """Of `total`, what a token meets."""
        return self.total - self.idle

    @property
    def exact(self) -> int:
        return self.total + self.router + self.positions + self.norms + self.biases

    @property
    def multiplied(self) -> int:
        """What a token is multiplied with: `active` and the router without the embedding's lookup, with the output layer."""
        return self.attention + self.mlp - self.idle + self.router + (self.unembedding or self.embedding)

    def plain(self) -> dict[str, int]:
        found = {name: value for name, value in asdict(self).items() if name != "idle"}
        return {**found, "total": self.total, "active": self.active, "exact": self.exact}


@dataclass(frozen=True)
class Work:
    """FLOPs of one token, forward and backward: 2 a parameter and direction of the gradient, and the pairs of attention."""

    parameters: float  # 6 N
    attention: float
    recomputation: float  # of the blocks' forward pass, where their activations are not kept

    @property
    def total(self) -> float:
        """What the model needs; recomputation is not part of it."""
        return self.parameters + self.attention

    @property
    def forward(self) -> float:
        return self.total / 3

    @property
    def backward(self) -> float:
        return self.total - self.forward


@dataclass(frozen=True)
class Memory:
    """Bytes on one device; `host` is what stands in the host's memory for one device: what offloading moves there, and the copy of a
    checkpoint that is being written."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: int  # DeepSpeed's: gradients on their way, weights gathered
    activations: int
    logits: int
    checkpoint: int  # the copy, where the device is the host
    host: int

    @property
    def total(self) -> int:
        held = (self.parameters, self.gradients, self.optimizer, self.buffers, self.activations, self.logits, self.checkpoint)
        return sum(held)


@dataclass(frozen=True)
class Cost:
    """What a training takes on all devices together."""

    time_s: float
    device_hours: float
    money: float
    energy_kwh: float
    co2_kg: float


def count_parameters(config: ModelConfig) -> Parameters:
    """Exact counts for a resolved `config`, whatever its architecture."""
    d, layers = config.hidden_size, config.num_hidden_layers
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    gpt2 = config.architecture == "gpt2"
    matrices = 2 if gpt2 else 3  # of a feed-forward layer: the others have a gate
    sparse = sum(map(config.sparse, range(layers)))
    expert = matrices * d * expert_width(config)
    shared = matrices * d * expert_width(config) * config.n_shared_experts
    mlp = (layers - sparse) * matrices * d * config.intermediate_size + sparse * (config.num_experts * expert + shared)
    # a layer norm of gpt2 has a shift, counted with the norms
    norms = (2 * layers + 1) * d * (2 if gpt2 else 1)
    if config.qk_norm:
        norms += layers * 2 * config.head_dim
    biases = 0
    if gpt2:
        biases = layers * (queries + 2 * keys + d + config.intermediate_size + d)
    elif config.attention_bias:
        biases = layers * (queries + 2 * keys)
    return Parameters(
        embedding=config.vocab_size * d,
        unembedding=0 if config.tie_word_embeddings else config.vocab_size * d,
        attention=layers * 2 * d * (queries + keys),
        mlp=mlp,
        idle=sparse * (config.num_experts - config.num_experts_per_tok) * expert,
        router=sparse * config.num_experts * d,
        positions=config.max_position_embeddings * d if gpt2 else 0,
        norms=norms,
        biases=biases,
    )


def expert_width(config: ModelConfig) -> int:
    """Mixtral's experts are as wide as its configuration says layers are."""
    return config.moe_intermediate_size or config.intermediate_size


def work_per_token(config: ModelConfig, sequence_length: int, attention: str = "causal") -> Work:
    """FLOPs of a token in a row of `sequence_length` that is one document; shorter documents need less for attention.

    `attention`: the pairs counted. Full, it is 12 · layers · queries' width · length (arXiv:2204.02311, appendix B); causal, half of it.
    """
    pairs = {"full": 12, "causal": 6, "none": 0}[attention]
    parameters = count_parameters(config)
    scores = float(pairs * config.num_hidden_layers * config.num_attention_heads * config.head_dim * sequence_length)
    blocks = parameters.multiplied - (parameters.unembedding or parameters.embedding)
    return Work(6.0 * parameters.multiplied, scores, 2.0 * blocks + scores / 3)


def state_bytes(
    parameters: int, zero: int, world: int, *, weight: float = 2, gradient: float = 2, optimizer: float = 12
) -> tuple[int, int, int]:
    """Bytes of weights, gradients and optimizer states on one of `world` devices; the defaults are those of the ZeRO paper
    (arXiv:1910.02054): 16-bit weights and gradients, and 12 bytes a parameter of fp32 weights and Adam's two moments.
    """
    shares = [1 / world if zero >= stage else 1.0 for stage in (3, 2, 1)]
    found = [round(parameters * size * share) for size, share in zip((weight, gradient, optimizer), shares, strict=True)]
    return found[0], found[1], found[2]


def activation_bytes(config: ModelConfig, tokens: int, precision: str, *, recompute: bool = False) -> int:
    """Bytes kept from the forward pass of `tokens` for the backward pass, counted tensor by tensor.

    A block keeps its two norms' inputs and outputs (4 d); rotated queries, attention's output as the kernel gives it and laid out for the
    projection (3 q), keys and values (2 k), queries and keys before they are normalised; of a feed-forward layer the gate and the other
    half (2 f, as gpt2 has). A CPU's masks of packed documents are left out.
    Recomputing keeps a block's input alone, and the rest of one block. Logits are kept where all are few.
    """
    d, layers = config.hidden_size, config.num_hidden_layers
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    attention = 4 * d + 3 * queries + 2 * keys + (queries + keys if config.qk_norm else 0)
    dense = attention + 2 * config.intermediate_size
    # a token's copy for each expert, what the expert keeps, what it gives back, weights and places; shared experts need no copies
    routed = config.num_experts_per_tok * (2 * d + 2 * expert_width(config) + 12) + 2 * config.num_experts
    sparse = attention + routed + config.n_shared_experts * 2 * expert_width(config)
    if config.architecture == "glm4_moe" and precision != "fp32":
        sparse += 2 * d  # its router reads a copy in fp32
    blocks = [sparse if config.sparse(layer) else dense for layer in range(layers)]
    kept = layers * d + max(blocks) if recompute else sum(blocks)
    logits = tokens * config.vocab_size
    return tokens * (kept + 2 * d) * width_of(precision) + (4 * logits if logits <= LOGITS_KEPT else 0)


def logits_bytes(config: ModelConfig, tokens: int, device: str) -> int:
    """Bytes of the logits held at once (as they are and as log-probabilities, in fp32), and the fp32 sum of the output layer's gradient."""
    rows = min(tokens, max(POSITIONS_AT_LEAST, LOGITS_AT_ONCE[device] // config.vocab_size))
    return rows * config.vocab_size * 8 + 4 * config.vocab_size * config.hidden_size


def running_stage(zero: int, *, world: int, precision: str, offload: Offload) -> int:
    """The ZeRO stage a training runs at where it asks for `zero`: 0 for a rank alone, which has nothing to shard and would only copy its
    gradients and weights; but in 16 bits stage 0 would add gradients up in them, and it offloads nothing."""
    return 0 if world == 1 and precision == "fp32" and offload == "none" else zero


def width_of(precision: str) -> int:
    """Bytes of a number."""
    return 4 if precision == "fp32" else 2


def memory_per_device(
    config: ModelConfig,
    *,
    tokens: int,
    precision: str,
    zero: int,
    world: int,
    device: str = "cuda",
    recompute: bool = False,
    offload: Offload = "none",
) -> Memory:
    """Memory of one rank at the top of a step over micro-batches of `tokens`, with this project's engine.

    16-bit gradients are added up in fp32: at stage 1 all, at stages 2 and 3 this rank's part alone. Stages 1 to 3 keep
    an fp32 copy of the weights in fp32 too. Offloading the optimizer moves its states to the host, which holds this rank's part of the
    gradients in fp32 as well, as the optimizer reads them; at stage 3, and in fp32 at 2, they are added up there, in 16 bits at stage 2
    on the device. Offloading the parameters moves the weights as well at stage 3; at stage 0 there is nothing to move. A checkpoint is
    written from a copy, of which rank 0's has the weights as well; at stage 3 they are the optimizer's.
    """
    exact, width = count_parameters(config).exact, width_of(precision)
    zero = running_stage(zero, world=world, precision=precision, offload=offload)
    # bf16 has an optimizer of its own in DeepSpeed below stage 2, unless that is offloaded: it keeps gradients beside their sums
    beside = zero == 0 or (zero == 1 and precision == "bf16" and offload == "none")
    gradient = 6 if precision != "fp32" and beside else 4
    optimizer = 8 if precision == "fp32" and zero == 0 else 12
    weights, gradients, states = state_bytes(exact, zero, world, weight=width, gradient=gradient, optimizer=optimizer)
    bucket = min(exact, REDUCE_BUCKET)
    sent = buffers = bucket * (2 if precision == "fp16" else 4)  # bf16 in fp32
    contiguous = offload != "none" or device != "cpu"
    own = 4 * exact // world  # this rank's part of the gradients, in fp32
    apart = precision == "fp32" and offload == "none" and device != "cpu"  # what has come back, until it is added to other micro-batches'
    if zero == 1 and apart:
        buffers = max(sent, own)
    elif zero == 1 and precision != "fp32" and not beside:
        buffers += own + (4 * bucket if precision == "fp16" else 0)  # gathered in fp32
    elif zero == 2:
        buffers += bucket * width * (2 if precision == "bf16" else 1)  # where they wait before, and in bf16 are flattened beside that
        if apart and exact > bucket:
            buffers += own  # of the buckets before
    if zero == 3:
        # until a copy of them is sent they wait: gathered, as they are sent; or as they came, to be converted then
        buffers += sent if contiguous else bucket * width + (sent if precision == "bf16" else 0)
        if precision == "fp16":
            buffers += 4 * bucket // world  # this rank's part of what comes back, in fp32
        buffers += width * min(exact, LIVE_PARAMETERS)
    copied = states if zero == 3 else states + weights
    host = 0
    if offload != "none" and zero:
        host, states = states + own, 0
        if zero < 3:
            host += width * exact // world  # the new weights on their way back
        if zero == 3 or (zero == 2 and precision == "fp32"):
            host, gradients = host + gradients, 0
        if offload == "parameters" and zero == 3:
            host, weights = host + weights, 0
    return Memory(
        weights,
        gradients,
        states,
        buffers,
        activation_bytes(config, tokens, precision, recompute=recompute),
        logits_bytes(config, tokens, device),
        checkpoint=copied if device == "cpu" else 0,
        host=host if device == "cpu" else host + copied,
    )


def largest_micro_batch(available: float, config: ModelConfig, sequence_length: int, **how: Any) -> int:
    """Rows of `sequence_length` whose step fits into `available` bytes; 0 where not one does. `how` as `memory_per_device` takes it."""

    def needed(rows: int) -> int:
        return memory_per_device(config, tokens=rows * sequence_length, **how).total

    if needed(1) > available:
        return 0
    rows = 1
    while needed(2 * rows) <= available:
        rows *= 2
    step = rows
    while step := step // 2:
        if needed(rows + step) <= available:
            rows += step
    return rows


def cost(flops: float, devices: int, flops_per_s: float, assumptions: Assumptions) -> Cost:
    """Time of `flops` on `devices` that each do `flops_per_s`, and what the devices cost in that time."""
    time_s = flops / (devices * flops_per_s)
    hours = devices * time_s / 3600
    energy = hours * assumptions.watts * assumptions.pue / 1000
    return Cost(time_s, hours, hours * assumptions.price_per_hour, energy, energy * assumptions.co2_g_per_kwh / 1000)


def chinchilla_ratio(parameters: Parameters, tokens: int) -> float:
    """Tokens over 20 a parameter: 1 is the compute-optimal training, more one whose model is cheaper to use."""
    return tokens / (CHINCHILLA * parameters.active)


@dataclass(frozen=True)
class Training:
    """What is trained on what, as far as a plan needs it."""

    config: ModelConfig  # resolved
    tokens: int
    steps: int
    sequence_length: int
    precision: str
    micro_batch: int
    world: int
    zero: int
    device: str = "cuda"
    recompute: bool = False
    offload: Offload = "none"
    forwards: int = 0  # how often a token is only read, besides being trained on: by a reference, or as it is generated
    tokens_per_second: float | None = None  # as measured before; None: to be assumed


@dataclass(frozen=True)
class Estimate:
    """A plan's figures for one training."""

    training: Training
    assumptions: Assumptions
    parameters: Parameters
    work: Work
    memory: Mapping[int, Memory]  # by ZeRO stage
    offloaded: Mapping[int, Memory]  # by ZeRO stage, from 1 on, with all that can be in the host's memory
    recomputed: Mapping[int, Memory]  # by ZeRO stage, with the blocks' activations computed again
    chosen: Memory  # of the ZeRO stage that is set, offloading as the training does
    micro_batch: Mapping[int, int]  # rows that fit, by ZeRO stage, offloading and recomputing as the training does
    cost: Cost

    @property
    def conversion(self) -> dict[str, int]:
        return conversion_bytes(self.parameters, self.training.world, self.training.precision)

    def plain(self) -> dict[str, Any]:
        """Plain JSON, keyed as docs/pretraining.md describes it."""
        training, work = self.training, self.work
        return {
            "parameters": self.parameters.plain(),
            "tokens": training.tokens,
            "steps": training.steps,
            "chinchilla_ratio": chinchilla_ratio(self.parameters, training.tokens),
            "flops": work.parameters * training.tokens,
            "attention_flops": work.attention * training.tokens,
            "recomputed_flops": work.recomputation * training.tokens if training.recompute else 0.0,
            "forward_flops": work.forward * training.forwards * training.tokens,
            "flops_per_token": {**asdict(work), "forward": work.forward, "backward": work.backward},
            "memory_bytes": totals(self.memory),
            "memory_bytes_offloaded": totals(self.offloaded),
            "memory_bytes_recomputed": totals(self.recomputed),
            "memory_parts": {str(stage): asdict(memory) for stage, memory in self.memory.items()},
            "memory_parts_offloaded": {str(stage): asdict(memory) for stage, memory in self.offloaded.items()},
            "largest_micro_batch": {str(stage): rows for stage, rows in self.micro_batch.items()},
            "conversion": self.conversion,
            **asdict(self.cost),
            "devices": training.world,
            "tokens_per_second": training.tokens / self.cost.time_s,
            "measured": training.tokens_per_second is not None,
            "assumptions": asdict(self.assumptions),
        }


def totals(memory: Mapping[int, Memory]) -> dict[str, int]:
    """Bytes on the device, by ZeRO stage."""
    return {str(stage): found.total for stage, found in memory.items()}


def conversion_bytes(parameters: Parameters, world: int, precision: str) -> dict[str, int]:
    """What it takes, on one host, to let another number of ranks go on from a checkpoint of `world`: weights and moments in fp32 twice,
    as fragments and whole, beside a copy of the weights on disk; one rank's part of them and the weights in memory."""
    weights = parameters.exact * width_of(precision)
    return {"disk_bytes": CONVERTED * parameters.exact + weights, "memory_bytes": 12 * parameters.exact // world + weights}


def estimate(training: Training, assumptions: Assumptions) -> Estimate:
    """All figures of a training. A measured throughput takes the place of the assumed peak and its utilisation."""
    work = work_per_token(training.config, training.sequence_length, assumptions.attention)
    done = work.total + training.forwards * work.forward + (work.recomputation if training.recompute else 0.0)
    flops_per_s = assumptions.tflops(training.precision) * 1e12 * assumptions.mfu
    if training.tokens_per_second is not None:
        flops_per_s = training.tokens_per_second * done / training.world
    where = {"precision": training.precision, "world": training.world, "device": training.device}

    def memory(zero: int, offload: Offload = training.offload, recompute: bool = training.recompute) -> Memory:
        how: dict[str, Any] = {**where, "offload": offload, "recompute": recompute}
        return memory_per_device(training.config, tokens=training.micro_batch * training.sequence_length, zero=zero, **how)

    def rows(zero: int) -> int:
        how = {**where, "offload": training.offload, "recompute": training.recompute}
        return largest_micro_batch(assumptions.usable_bytes, training.config, training.sequence_length, zero=zero, **how)

    return Estimate(
        training,
        assumptions,
        count_parameters(training.config),
        work,
        memory={zero: memory(zero, "none") for zero in ZERO_STAGES},
        offloaded={zero: memory(zero, "parameters") for zero in ZERO_STAGES if zero},
        recomputed={zero: memory(zero, "none", recompute=True) for zero in ZERO_STAGES},
        chosen=memory(training.zero),
        micro_batch={zero: rows(zero) for zero in ZERO_STAGES},
        cost=cost(done * training.tokens, training.world, flops_per_s, assumptions),
    )
