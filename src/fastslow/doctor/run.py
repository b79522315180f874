"""A config against this machine: what ``fastslow plan`` says it needs, and what would stop it or leave it at zero."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from fastslow.config import EMBEDDED_MODEL, RunConfig
from fastslow.costs import measure_speed
from fastslow.doctor.findings import Finding, gb, ok, problem, warning
from fastslow.doctor.machine import available_memory, free_disk
from fastslow.errors import FastslowError, ModelError, TaskError
from fastslow.planning import HUB_LENGTHS, Plan, local_renderer, make_plan, span
from fastslow.policy.facts import ModelFacts, model_facts
from fastslow.preflight import Lengths, check_prompts, cut_off, gold_over, measure_lengths
from fastslow.tasks.base import Task

_CONNECT_SECONDS = 3.0


def examine_run(config: RunConfig, out: Path) -> list[Finding]:
    """Findings about ``config`` on this machine; ``out`` is where its run goes. Loads no weights, trains nothing."""
    facts = model_facts(config.model)
    found = [*_model(config, facts), *_groups(config)]
    task, line = _task(config)
    found.append(line)
    try:
        renderer = local_renderer(config, facts)
    except ModelError as error:
        return [*found, problem("prompts", str(error), ""), *_endpoint(config)]
    lengths = measure_lengths(task, renderer) if task is not None else HUB_LENGTHS
    if task is not None:
        found += [_window(config, lengths, facts), *_gold(config, lengths)]
    return [*found, *_adapters(config, facts), *_endpoint(config), *_needs(config, facts, lengths, out)]


def _model(config: RunConfig, facts: ModelFacts) -> Iterator[Finding]:
    name = config.model.name
    path = Path(name).expanduser()
    size = f"{facts.parameters / 1e6:,.0f} M parameters ({facts.source})" if facts.parameters else facts.source
    if name == EMBEDDED_MODEL or facts.folder is not None or (path.suffix == ".gguf" and path.is_file()):
        yield ok("model", f"{name}: {size}")
    elif path.exists() or path.suffix == ".gguf" or name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        missing = "the folder has no config.json" if path.is_dir() else "no such folder or file"
        yield problem("model", f"model.name: {name}: {missing}", "give a folder of save_pretrained, or a .gguf file")
    else:
        yield warning("model", f"{name}: {size}; not in the hub's cache", f"needs the network: hf download {name}")


def _groups(config: RunConfig) -> Iterator[Finding]:
    if config.population_trains:  # that K divides G is the config's own check
        g, k = config.slow.group_size, config.fast.population
        yield ok("groups", f"G = {g} rollouts over K = {k} contexts: {g // k} under each")


def _task(config: RunConfig) -> tuple[Task | None, Finding]:
    from fastslow.tasks.schedule import build_run_task

    hub = [path for task in config.tasks if (path := getattr(task, "path", "")).startswith("hub:")]
    if hub:
        mend = "loaded when the run starts, which needs the network once"
        return None, warning("task", f"{hub[0]}: a hub dataset isn't read here", mend)
    try:
        task = build_run_task(config)
    except TaskError as error:
        return None, problem("task", str(error), "")
    all_checked = all(getattr(t, "check_gold", True) for t in config.tasks)
    checked = "gold answers of a sample score 1" if all_checked else "gold not checked"
    notes = "".join(f"; {note}" for note in task.notes)
    return task, ok("task", f"{task.name}: {len(task.train)} + {len(task.val)} problems, {checked}{notes}")


def _window(config: RunConfig, lengths: Lengths, facts: ModelFacts) -> Finding:
    new = config.sampling.max_new_tokens
    if facts.window is None:
        return ok("prompts", f"up to {lengths.longest} tokens and {new} new; the model's window isn't known here")
    try:
        cap = check_prompts(config, lengths, facts.window).max_context_tokens
    except ModelError as error:
        return problem("prompts", str(error), "")
    found = f"longest {lengths.longest} tokens, {new} new, a context of up to {config.fast.max_context_tokens}"
    if config.method != "rl" and cap < config.fast.max_context_tokens:
        return warning("prompts", f"{found}: more than the model's {facts.window}",
                       f"contexts are held to {cap} tokens; set fast.max_context_tokens: {cap} to say so")  # fmt: skip
    return ok("prompts", f"{found}; the model holds {facts.window}")


def _gold(config: RunConfig, lengths: Lengths) -> Iterator[Finding]:
    """Replies too short for their answers: every reward is 0, and nothing else looks wrong."""
    limit, line = config.sampling.max_new_tokens, cut_off(config, lengths)
    if not lengths.gold:
        return
    if line is None:
        yield ok("replies", f"gold answers take up to {max(lengths.gold)} of sampling.max_new_tokens = {limit}")
        return
    make = problem if gold_over(lengths.gold, limit) == len(lengths.gold) else warning
    yield make("replies", line.partition(";")[0], f"set sampling.max_new_tokens: {max(lengths.gold)} or more")


def _adapters(config: RunConfig, facts: ModelFacts) -> Iterator[Finding]:
    lora = config.model.lora
    if lora is None or lora.targets == "all-linear":
        return
    names = _module_names(facts)
    if names is None:
        yield warning("adapters", "model.lora.targets can't be checked without the model's config.json", "")
        return
    missing = [t for t in lora.targets if not any(n == t or n.endswith(f".{t}") for n in names)]
    if missing:
        known = sorted({n.rpartition(".")[2] for n in names if n.endswith("proj")}) or ["all-linear"]
        yield problem("adapters", f"model.lora.targets: no module {', '.join(missing)}", f"known: {', '.join(known)}")
    else:
        yield ok("adapters", f"model.lora.targets: {', '.join(lora.targets)} are there")


def _module_names(facts: ModelFacts) -> list[str] | None:
    """Names of the model's modules, built without memory for its weights."""
    if facts.folder is None:
        return None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        settings = AutoConfig.from_pretrained(facts.folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return [name for name, _ in model.named_modules() if name]


def _endpoint(config: RunConfig) -> Iterator[Finding]:
    """Whether the reflector's server answers the door; no request is made, so nothing is spent."""
    reflector = config.fast.reflector
    if config.method == "rl" or reflector.type != "endpoint":
        return
    if os.environ.get(reflector.api_key_env, "").strip():
        yield ok("reflector's key", f"{reflector.api_key_env} is set")
    elif reflector.base_url is None:
        yield problem("reflector's key", f"{reflector.api_key_env} is not set", "set it, or name a fast.reflector."
                      "base_url that needs none")  # fmt: skip
    if reflector.base_url is None:
        return
    host, port, shown = _address(reflector.base_url)
    mend = "start the server, or mend fast.reflector.base_url"
    if host is None:
        yield problem("reflector", f"fast.reflector.base_url: {shown!r} names no host", mend)
        return
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            yield ok("reflector", f"{host}:{port} can be reached")
    except OSError as error:
        yield problem("reflector", f"{host}:{port} can't be reached ({error.strerror or error})", mend)


def _address(url: str) -> tuple[str | None, int, str]:
    """(host, port, the address without what may be a password)."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname}" if parts.hostname else url
    try:
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), shown
    except ValueError:
        return None, 0, shown


def _needs(config: RunConfig, facts: ModelFacts, lengths: Lengths, out: Path) -> Iterator[Finding]:
    try:
        plan = make_plan(config, facts, lengths, measure_speed(config))
    except FastslowError as error:  # a device that isn't there; the machine's own lines say more
        yield problem("plan", str(error), "")
        return
    if plan.low is None or plan.high is None:
        yield warning("memory needed", f"unknown: {facts.source}", "fastslow plan --parameters 8B says more")
        return
    yield _memory_needed(config, plan)
    if plan.disk_bytes:
        free = free_disk(out)
        found = f"checkpoints take up to {gb(plan.disk_bytes)}, {gb(free)} are free"
        mend = "make room, set keep_checkpoints: 1, or choose another folder with --out"
        yield ok("disk needed", found) if plan.disk_bytes < free else problem("disk needed", found, mend)
    yield ok("time", f"{span(plan.low.total, plan.high.total)}; see fastslow plan")


def _memory_needed(config: RunConfig, plan: Plan) -> Finding:
    import torch

    from fastslow.policy.compute import pick_device

    assert plan.low is not None and plan.high is not None
    device = pick_device(config.model.device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    low, high = plan.low.memory, plan.high.memory
    found = f"{gb(low)} to {gb(high)}, {gb(free)} available"
    mend = "a smaller model, model.lora, or a lower slow.token_budget or sampling.batch_size"
    if low > free:
        return problem("memory needed", found, mend)
    return ok("memory needed", found) if high < free else warning("memory needed", found, mend)
