"""One of several processes under torchrun: trains sharded networks and writes what it saw.

``torchrun --nproc-per-node 2 fsdp_worker.py FOLDER``. Every rank has an equal part of each batch.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sam_cases import OWN, batches, bits, with_batchnorm
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim import SGD, AdamW
from torch.optim.optimizer import Optimizer
from torch.utils.checkpoint import checkpoint

from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.pruning import (
    attach,
    check_pruned_weights_are_zero,
    load_plain,
    local_part,
    magnitude_masks,
    matching_part,
    plain_state,
    tighten,
)
from sparse_sam.sam import GSAM, SAM, VARIANTS, MomentumSAM, build_sam
from tests.pages import examples, page_of

STEPS = 5
MOMENTUM: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
ADAM: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-2}

# By name: variant, base optimizer, its settings and SAM's, the kind of masks.
Run = tuple[str, type[Optimizer], dict[str, Any], str]
RUNS: dict[str, Run] = {
    **{name: (name, SGD, MOMENTUM, "") for name in VARIANTS},
    **{f"{name}, AdamW": (name, AdamW, ADAM, "") for name in ("sam", "momentum", "looksam")},
    **{f"{name}, masked": (name, SGD, MOMENTUM, "attached") for name in VARIANTS},
    "asam, masks given": ("asam", SGD, MOMENTUM, "given"),
    "gsam, torch's masks": ("gsam", SGD, MOMENTUM, "torch"),
    "dense gradient": ("sam", SGD, MOMENTUM | {"dense_gradient": True}, "attached"),
    "kept share": ("sam", SGD, MOMENTUM | {"track_kept_share": True}, "attached"),
    "clipped": ("gsam", SGD, MOMENTUM | {"max_grad_norm": 0.05}, ""),
    "skipping": ("sam", SGD, MOMENTUM | {"nonfinite": "skip"}, ""),
}


def network() -> nn.Sequential:
    """Its parameters have 7, 3 and 1 rows: shards are uneven, and some are empty."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1), nn.Tanh()),
        nn.Linear(1, 4),
    )


def pruned(kind: str) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """The network with masks of a kind, and masks that have to be given to SAM."""
    model = network()
    if not kind:
        return model, {}
    masks = magnitude_masks(model, 0.5)
    if kind == "attached":
        attach(model, masks)
    for name, mask in masks.items() if kind != "attached" else ():
        layer, attribute = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        with torch.no_grad():
            getattr(layer, attribute).mul_(mask)
        if kind == "torch":
            prune.custom_from_mask(layer, attribute, mask)
    return model, dict(masks) if kind == "given" else {}


def sharded(model: nn.Sequential, **options: Any) -> nn.Sequential:
    """Two layers, and the rest with the whole, which keeps it gathered after a forward pass."""
    fully_shard(model[0], **options)
    fully_shard(model[2], **options)
    fully_shard(model, **options)
    return model


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([whole(parameter).flatten() for parameter in model.parameters()])


def own_bits(model: nn.Module) -> list[Tensor]:
    return [bits(local_part(parameter)).clone() for parameter in model.parameters()]


def equal_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def part(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What this process has of a batch."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return batch[0].chunk(ranks)[rank], batch[1].chunk(ranks)[rank]


def closure_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    inputs, labels = part(batch)
    dtype = next(model.parameters()).dtype

    def closure() -> Tensor:
        loss = cross_entropy(model(inputs.to(dtype)), labels)
        loss.backward()
        return loss

    return closure


def build(run: Run, model: nn.Module, masks: dict[str, Tensor]) -> SAM:
    variant, base, options, _ = run
    own = OWN.get(variant, {})
    own = own | {"k": 2} if "k" in own else own  # (late's 2 steps are before the checkpoint)
    return build_sam(variant, model, base, 0.5, settings=own, masks=masks or None, **options)


def train(run: Run, shard: Callable[[nn.Sequential], nn.Module]) -> dict[str, Any]:
    """The network after each step, and at each call of the closure."""
    plain, masks = pruned(run[-1])
    model = shard(plain)
    optimizer = build(run, model, masks)
    after, at, shares = [], [], []
    for batch in batches(STEPS):
        closure = closure_of(model, batch)

        def watched(closure: Callable[[], Tensor] = closure) -> Tensor:
            if len(after) in (0, STEPS - 1):  # gathering takes longer than a step
                at.append(flat(model))
            return closure()

        optimizer.step(watched)
        after.append(flat(model))
        shares.append(optimizer.kept_share)
        check_pruned_weights_are_zero(model)
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            assert not local_part(parameter)[~matching_part(mask, parameter)].any()
    return {"after": after, "at": at, "shares": shares, "norm": optimizer.ascent_norm}


def storages() -> dict[int, int]:
    """Bytes of all memory that tensors of this process hold, by address."""
    gc.collect()
    held = [one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter)]
    return {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}


def memory(variant: str) -> dict[str, int]:
    """Bytes that the way to w + ε takes, and those of the shards here and everywhere."""
    model = sharded(network())
    run: Run = (variant, SGD, MOMENTUM, "")
    optimizer = build(run, model, {})
    if variant in {"momentum", "late"}:  # which do not ascend at once
        for batch in batches(2):
            optimizer.step(closure_of(model, batch))
        optimizer.restore()
        optimizer._excursion._copies.clear()
    closure_of(model, batches(1)[0])()
    counts = variant in {"sam", "gsam"}  # (a census takes half a second)
    before = storages() if counts else {}
    optimizer.first_step()
    now = storages() if counts else {}
    taken = {place: size for place, size in now.items() if place not in before}
    parts = [local_part(parameter) for parameter in model.parameters()]
    copies = optimizer._excursion._copies.values()
    optimizer.restore()
    return {
        **({"taken": sum(taken.values())} if counts else {}),
        "copies": sum(one.untyped_storage().nbytes() for one in copies),
        "here": sum(one.numel() * one.element_size() for one in parts),
        "everywhere": sum(one.numel() * one.element_size() for one in network().parameters()),
    }


def resumed(variant: str, base: type[Optimizer], folder: Path) -> dict[str, bool]:
    """Whether training goes on to the same bits from a checkpoint, read into a new network."""
    run: Run = (variant, base, MOMENTUM if base is SGD else ADAM, "attached")
    data = batches(STEPS)

    def begin() -> tuple[nn.Module, SAM]:
        model = sharded(pruned("attached")[0])
        return model, build(run, model, {})

    def steps(model: nn.Module, optimizer: SAM, first: int, last: int) -> list[Tensor]:
        for batch in data[first:last]:
            optimizer.step(closure_of(model, batch))
        return own_bits(model)

    found = {}
    through = steps(*begin(), 0, STEPS)
    model, optimizer = begin()
    steps(model, optimizer, 0, 3)  # with a period of 2, the next step does not ascend
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    place = folder / f"{variant}-{base.__name__}"
    dcp.save(state, checkpoint_id=place)
    # The whole state, as one process would keep it.
    options = StateDictOptions(full_state_dict=True)
    kept = [
        get_model_state_dict(model, options=options),
        get_optimizer_state_dict(model, optimizer, options=options),
    ]

    twin, other = begin()
    with torch.no_grad():
        for parameter in twin.parameters():
            local_part(parameter).add_(1.0)
    fresh = {
        "model": get_model_state_dict(twin),
        "optimizer": get_optimizer_state_dict(twin, other),
    }
    dcp.load(fresh, checkpoint_id=place)
    set_model_state_dict(twin, fresh["model"])
    set_optimizer_state_dict(twin, other, fresh["optimizer"])
    found["sharded"] = equal_bits(steps(twin, other, 3, STEPS), through)

    if variant == "looksam":
        third, its = begin()
        set_model_state_dict(third, kept[0], options=options)
        set_optimizer_state_dict(third, its, kept[1], options=options)
        found["whole"] = equal_bits(steps(third, its, 3, STEPS), through)
    return found


def overflow() -> dict[str, Any]:
    """The gradient of the last rank alone is infinite in one element: all skip, or all raise."""
    found: dict[str, Any] = {}
    for nonfinite in ("skip", "raise"):
        model = sharded(network())
        optimizer = SAM(model.parameters(), SGD, 0.5, model=model, nonfinite=nonfinite, **MOMENTUM)
        for step, batch in enumerate(batches(3)):
            before, closure = own_bits(model), closure_of(model, batch)

            def spoiled(closure: Any = closure, model: Any = model, step: int = step) -> Tensor:
                loss = closure()
                if step == 1 and dist.get_rank() == dist.get_world_size() - 1:
                    local_part(model[0].weight.grad)[0, 0] = torch.inf
                return loss

            try:
                optimizer.step(spoiled)
            except DivergenceError:
                found["raised"] = step
            if step == 1:
                found[f"{nonfinite}: as before"] = equal_bits(own_bits(model), before)
        found[f"{nonfinite}: skipped"] = optimizer.skipped
    return found


def with_scaler() -> dict[str, Any]:
    """A scaler sees an overflow of one rank's shard in every process."""
    model = sharded(network())
    optimizer = SAM(model.parameters(), SGD, 0.5, model=model, max_grad_norm=0.2, **MOMENTUM)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    after, scales = [], []
    for step, batch in enumerate(batches(STEPS)):
        calls = 0
        inputs, labels = part(batch)

        def closure(step: int = step, x: Tensor = inputs, y: Tensor = labels) -> Tensor:
            nonlocal calls
            calls += 1
            loss = cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            if (step, calls) in {(1, 1), (3, 2)} and dist.get_rank() == 0:
                local_part(model[0].weight.grad)[0, 0] = torch.inf
            return loss

        before = own_bits(model)
        optimizer.step(closure, scaler=scaler)
        scaler.update()
        scales.append(scaler.get_scale())
        after.append(None if step in (1, 3) else flat(model))
        if step in (1, 3):
            assert equal_bits(own_bits(model), before)
    return {"after": after, "scales": scales}


def failure() -> dict[str, bool]:
    """One process fails in the second pass, after its backward pass: it gets back alone."""
    model = sharded(network())
    optimizer = SAM(model.parameters(), SGD, 0.5, model=model, **MOMENTUM)
    data = batches(3)
    optimizer.step(closure_of(model, data[0]))
    before, calls, closure = own_bits(model), 0, closure_of(model, data[1])
    found = {"restored": True, "away": False}

    def failing() -> Tensor:
        nonlocal calls
        loss, calls = closure(), calls + 1
        if calls == 2:
            found["away"] = not equal_bits(own_bits(model), before)
            if dist.get_rank() == 0:
                raise ArithmeticError
        return loss

    try:
        optimizer.step(failing)
    except ArithmeticError:
        found["restored"] = equal_bits(own_bits(model), before)
    optimizer.step(closure_of(model, data[2]))  # and goes on with the others
    found["finite"] = all(bool(local_part(p).isfinite().all()) for p in model.parameters())
    return found


def stale() -> dict[str, Any]:
    """Layers hold gathered weights after a forward pass alone: it must not be of other weights."""
    data = batches(3)
    inputs = data[0][0]

    def read(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(inputs)

    def expected(optimizer: SAM) -> Tensor:
        # (A layer that has gathered weights shows those as its parameters.)
        plain = network()
        held = [whole(one).flatten() for one in optimizer.param_groups[0]["params"]]
        nn.utils.vector_to_parameters(torch.cat(held), plain.parameters())
        return read(plain)

    found = {}
    model = sharded(network())
    optimizer = SAM(model.parameters(), SGD, 0.5, model=model, **MOMENTUM)
    closure_of(model, data[0])()
    read(model)
    optimizer.first_step()
    found["after the ascent"] = (read(model), expected(optimizer))
    with optimizer.unperturbed():
        found["in between"] = (read(model), expected(optimizer))
    found["after that"] = (read(model), expected(optimizer))
    optimizer.restore()
    found["back"] = (read(model), expected(optimizer))

    model = sharded(network())
    momentum = MomentumSAM(model.parameters(), SGD, 0.5, model=model, **MOMENTUM)
    momentum.step(closure_of(model, data[0]))
    read(model)
    momentum.first_step()
    found["momentum"] = (read(model), expected(momentum))

    model = sharded(pruned("attached")[0])
    masked = build(RUNS["sam, masked"], model, {})
    kept = [(one, name) for name, one in model.named_parameters() if "original" in name]
    read(model)
    masks = magnitude_masks(network(), 0.7)
    tighten(model, masks)
    gone = torch.zeros(())
    for one, name in kept:
        mask = masks[name.replace("parametrizations.", "").replace(".original", "")]
        gone = gone + local_part(one)[~matching_part(mask, one)].abs().sum()
    found["masks"] = (gone, torch.zeros(()))
    masked.step(closure_of(model, data[0]))
    check_pruned_weights_are_zero(model)
    return found


def accumulated() -> dict[str, Any]:
    """Micro-batches within the closure, and those before it, which all processes refuse."""
    model = sharded(network())
    optimizer = SAM(model.parameters(), SGD, 0.5, model=model, **MOMENTUM)
    after, refused = [], 0
    for step, batch in enumerate(batches(3)):
        x, y = part(batch)

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            total = torch.zeros(())
            pieces = list(zip(x.split(5), y.split(5), strict=True))
            for place, (inputs, labels) in enumerate(pieces):
                model.set_requires_gradient_sync(place == len(pieces) - 1)
                loss = cross_entropy(model(inputs), labels) * len(labels) / len(y)
                loss.backward()
                total += loss.detach()
            return total

        if step == 1:
            closure()
            for parameter in model.parameters():  # what is lost is seen where it does not lie, too
                if dist.get_rank() == 0:
                    local_part(parameter.grad).zero_()
            try:
                optimizer.step(closure)
            except RuntimeError as error:
                refused += "micro-batches" in str(error)
            optimizer.zero_grad()
        optimizer.step(closure)
        after.append(flat(model))
    return {"after": after, "refused": refused}


def placed(placements: dict[str, list[Any]], shape: tuple[int, int]) -> dict[str, Any]:
    """Gradients and weights of any placement: ε, the norms, and the step."""
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("a", "b"))
    generator = torch.Generator().manual_seed(5)
    model, first, last = nn.Module(), {}, {}
    for name, how in placements.items():
        w, g, h = (torch.randn(5, 3, generator=generator).double() for _ in range(3))
        if how:
            w, g, h = (distribute_tensor(one, mesh, how) for one in (w, g, h))
        model.register_parameter(name, nn.Parameter(w))
        first[name], last[name] = g, h
    optimizer = GSAM(model.parameters(), SGD, 0.5, model=model, max_grad_norm=1.0, lr=0.1)
    for name, parameter in model.named_parameters():
        parameter.grad = first[name].clone()
    optimizer.first_step()
    away = flat(model)
    for name, parameter in model.named_parameters():
        parameter.grad = last[name].clone()
    optimizer.second_step()
    return {"away": away, "after": flat(model), "norm": optimizer.ascent_norm}


def refusals() -> dict[str, str]:
    """What cannot be, and what is said of it, in every process."""
    said = {}

    def ask(name: str, what: Callable[[], Any]) -> None:
        try:
            what()
        except (MaskError, RuntimeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"

    model = sharded(network())
    ask("model", lambda: SAM(model.parameters(), SGD, lr=0.1))
    ask("attach", lambda: attach(model, magnitude_masks(network(), 0.5)))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    one = nn.Module()
    one.weight = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Replicate()]))
    optimizer = SAM(one.parameters(), SGD, model=one, max_grad_norm=1.0, lr=0.1)
    one.weight.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
    ask("placements", optimizer.first_step)
    one.weight.grad = DTensor.from_local(torch.ones(4, 3), mesh, [Partial()])
    ask("partial, first", optimizer.first_step)
    ask("partial, last", optimizer.second_step)
    return said


def shrunk() -> Tensor:
    """Masks that shrink between steps."""
    model = sharded(pruned("attached")[0])
    optimizer = build(RUNS["looksam, masked"], model, {})
    for step, batch in enumerate(batches(STEPS)):
        optimizer.step(closure_of(model, batch))
        if step == 1:
            tighten(model, magnitude_masks(network(), 0.7))
            for one in model.parameters():
                optimizer.state[one].clear()
        check_pruned_weights_are_zero(model)
    return flat(model)


def plain() -> dict[str, bool]:
    """The state under plain names, taken and put back."""
    model = sharded(pruned("attached")[0])
    build(RUNS["sam, masked"], model, {}).step(closure_of(model, batches(1)[0]))
    before = own_bits(model)
    state = {name: whole(one) for name, one in plain_state(model).items()}
    alone = network()
    alone.load_state_dict(state)
    twin = sharded(pruned("attached")[0])
    load_plain(twin, {name: one + 1 - 1 for name, one in state.items()})
    masks = magnitude_masks(network(), 0.5)
    return {
        "alone": flat(model).equal(torch.cat([state[n].flatten() for n in order(model)])),
        "zeros": all(not state[name][~mask].any() for name, mask in masks.items()),
        "not changed": equal_bits(before, own_bits(model)),
        "put back": bool(torch.allclose(flat(twin), flat(model))),
    }


def order(model: nn.Module) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    return [name.replace("parametrizations.", "").replace(".original", "") for name in names]


def mixed(kind: str) -> list[Tensor]:
    """Groups of their own ρ, one parameter that is not sharded, one frozen."""
    model = network()
    if kind == "sharded":
        for layer in (model[0], model[2]):
            fully_shard(layer)
    model[4].bias.requires_grad_(False)
    alone = [*model[4].parameters(), *model[6].parameters()]
    groups = [{"params": [*model[0].parameters()], "rho": 0.3, "adaptive": True}]
    groups += [{"params": [*model[2].parameters()]}, {"params": alone}]
    optimizer = GSAM(groups, SGD, 0.5, model=model, max_grad_norm=0.2, **MOMENTUM)
    after = []
    for batch in batches(STEPS):
        closure = closure_of(model, batch)

        def summed(closure: Any = closure) -> Tensor:
            loss = closure()
            for parameter in alone if kind == "sharded" else ():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
            return loss

        optimizer.step(summed)
        after.append(flat(model))
    return after


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    chosen = list(RUNS) if ranks == 2 else ["sam", "gsam, torch's masks", "looksam, masked"]
    results: dict[str, Any] = {name: train(RUNS[name], sharded) for name in chosen}
    results["memory"] = {name: memory(name) for name in VARIANTS}
    results["overflow"] = overflow()
    if ranks == 2:
        for name, shape in (("replicas", (2, 1)), ("one replica", (1, 2))):
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards"))
            results[name] = train(RUNS["gsam"], lambda model, mesh=mesh: sharded(model, mesh=mesh))
        for name in VARIANTS:
            results[f"{name}, resumed"] = resumed(name, SGD, folder)
        results["looksam, AdamW, resumed"] = resumed("looksam", AdamW, folder)
        results |= {
            one.__name__: one()
            for one in (with_scaler, failure, stale, accumulated, refusals, shrunk, plain)
        }
        results["mixed"] = mixed("sharded")
        for shape in ((1, 2), (2, 1)):
            results[f"placed {shape}"] = placed(PLACED, shape)
        results |= {f"not plain, {name}": train(RUNS[run], how) for name, run, how in NOT_PLAIN}
        results["example"] = example(folder)
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


class Thrifty(nn.Sequential):
    """Computes everything again in the backward pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = checkpoint(super().forward, inputs, use_reentrant=False)
        return result


def compiled(model: nn.Sequential) -> nn.Module:
    sharded(model).compile(backend="aot_eager")
    return model


def in_bfloat16(model: nn.Sequential) -> nn.Module:
    return sharded(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))


# What else may be done with a network: a name, one of RUNS, and what makes the module of it.
NOT_PLAIN: list[tuple[str, str, Callable[[nn.Sequential], nn.Module]]] = [
    ("checkpointing", "looksam, masked", lambda model: sharded(Thrifty(*model))),
    ("compiled", "sam, masked", compiled),
    ("bfloat16", "gsam, masked", in_bfloat16),
]


def example(folder: Path) -> dict[str, bool]:
    """The example of docs/sam.md, but for the group of processes, of which there is one."""
    rank = dist.get_rank()
    code = examples(page_of("sam.md"))["fsdp"]
    model = with_batchnorm()
    loader = [(x.chunk(2)[rank], y.chunk(2)[rank]) for x, y in batches(6)]
    names = {"model": model, "loader": loader, "folder": folder / "example"}
    # A second group over the first one's store may find addresses that nobody listens at any more.
    with (
        mock.patch.object(dist, "init_process_group") as begun,
        mock.patch.object(dist, "destroy_process_group") as ended,
    ):
        exec(code, names)  # noqa: S102
    assert (begun.call_count, ended.call_count) == (1, 1)
    check_pruned_weights_are_zero(model)
    start = with_batchnorm()
    attach(start, magnitude_masks(start, 0.5))
    moved = [
        float((local_part(one) - one_before.detach()[: len(local_part(one))]).norm()) > 1e-4
        for one, one_before in zip(model.parameters(), start.parameters(), strict=True)
        if rank == 0
    ]
    return {"moved": all(moved), "saved": (folder / "example" / ".metadata").is_file()}


PLACED: dict[str, list[Any]] = {
    "plain": [],
    "rows": [Replicate(), Shard(0)],
    "columns": [Shard(1), Replicate()],
    "both": [Shard(0), Shard(1)],
    "everywhere": [Replicate(), Replicate()],
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # FSDP holds the groups, so gloo's threads are still there: one can abort Python as it ends.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
