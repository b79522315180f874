"""Fast-Slow Training in one flat file: the whole idea, no framework around it.

Task: one-digit sums whose answer must be written [7]. Nothing in the question says so; only the feedback does.
  fast weights  K contexts (a line of advice + worked examples), evolved from feedback every T steps
  slow weights  the model, moved by CISPO on G rollouts a problem, G/K under each context, one advantage per problem

    python examples/minimal_fst.py            # about 10 minutes on 2 cores

The library does the same with GEPA, shared prefixes, checkpoints and a ledger; a test holds the two losses equal.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

K, G, T = 4, 8, 6  # contexts, rollouts per problem, slow steps per cycle
PROBLEMS, STEPS = 8, 18  # problems per step, slow steps
LR, WARMUP, CAP, MAX_NEW = 1e-5, 10, 4.0, 8  # CAP: CISPO's τ
EXAMPLES, PROPOSALS = 4, 8  # worked examples in a context, contexts proposed in a fast phase
ADVICE = "Advice: "


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str


@dataclass(frozen=True)
class Context:
    """A fast weight φ: advice read in feedback, and worked examples from training problems."""

    advice: str = ""
    examples: tuple[Problem, ...] = ()

    def prompt(self, problem: Problem) -> str:
        shots = [f"Question: {e.question}\nAnswer: {e.answer}" for e in self.examples]
        head = [self.advice] if self.advice else []
        return "\n\n".join([*head, *shots, f"Question: {problem.question}\nAnswer:"])


@dataclass(frozen=True)
class Rollout:
    """Token ids, log-probabilities as sampled, and what the scorer said. ``problem`` is the group's key."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    reward: float
    feedback: str


# --- the task ---------------------------------------------------------------------------------------------------------


def make_problems(seed: int) -> tuple[list[Problem], list[Problem]]:
    """150 training and 50 validation problems, disjoint."""
    pairs = [(a, b, sign) for a in range(10) for b in range(10) for sign in "+-"]
    random.Random(seed).shuffle(pairs)
    problems = [
        Problem(
            f"State the final answer to the following arithmetic problem: {a} {sign} {b} =",
            f"[{a + b if sign == '+' else a - b}]",
        )
        for a, b, sign in pairs
    ]
    return problems[50:], problems[:50]


def score(problem: Problem, reply: str) -> tuple[float, str]:
    """Reward 1 for the exact answer in its form; the feedback reveals the form."""
    if reply.strip() == problem.answer:
        return 1.0, "Correct."
    return 0.0, f"{ADVICE}Write the final answer in square brackets, like [7].\nExpected reply: {problem.answer}"


# --- sampling ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def sample(model, tokenizer, pairs: list[tuple[Context, Problem]], generator: torch.Generator) -> list[Rollout]:
    """One rollout per (context, problem) at temperature 1, cut at the first newline."""
    tokenizer.padding_side = "left"
    batch = tokenizer([c.prompt(p) for c, p in pairs], return_tensors="pt", padding=True, add_special_tokens=False)
    ids, mask, cache = batch["input_ids"], batch["attention_mask"], None
    prompts = [tuple(row[m.bool()].tolist()) for row, m in zip(ids, mask)]
    completions: list[list[int]] = [[] for _ in pairs]
    logprobs: list[list[float]] = [[] for _ in pairs]
    done = [False] * len(pairs)
    for _ in range(MAX_NEW):
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = out.past_key_values
        logprobs_BV = out.logits[:, -1].float().log_softmax(-1)
        tokens_B = torch.multinomial(logprobs_BV.exp(), 1, generator=generator)[:, 0]
        for i, token in enumerate(tokens_B.tolist()):
            if not done[i]:
                completions[i].append(token)
                logprobs[i].append(float(logprobs_BV[i, token]))
                done[i] = token == tokenizer.eos_token_id or "\n" in tokenizer.decode([token])
        if all(done):
            break
        ids, mask = tokens_B[:, None], torch.cat([mask, mask.new_ones(len(pairs), 1)], dim=1)
    rollouts = []
    for (_, problem), prompt, completion, lp in zip(pairs, prompts, completions, logprobs):
        text = tokenizer.decode(completion, skip_special_tokens=True).split("\n")[0]
        rollouts.append(Rollout(problem, prompt, tuple(completion), tuple(lp), text, *score(problem, text)))
    return rollouts


# --- fast phase: evolve the contexts on feedback ----------------------------------------------------------------------


def reflect(parent: Context, rollouts: list[Rollout], rng: random.Random) -> Context:
    """Edit in place: take over advice found in feedback, renew some worked examples, keep the rest."""
    advice = parent.advice
    for rollout in rollouts:
        for line in rollout.feedback.splitlines():
            if line.startswith(ADVICE):
                advice = line.removeprefix(ADVICE)
    fresh = [r.problem for r in rollouts if r.reward < 1.0]
    kept = [e for e in parent.examples if rng.random() < 0.5 and e not in fresh]
    examples = [*kept, *fresh][:EXAMPLES]
    rng.shuffle(examples)
    return Context(advice, tuple(examples))


def fast_phase(model, tokenizer, population: list[Context], ahead: list[Problem], rng, generator) -> list[Context]:
    """Score the whole old population and new proposals on the lookahead, on equal terms; keep K that cover it."""
    candidates = list(dict.fromkeys(population))
    for _ in range(PROPOSALS):
        parent = rng.choice(population)
        minibatch = rng.sample(ahead, EXAMPLES)
        candidates.append(reflect(parent, sample(model, tokenizer, [(parent, p) for p in minibatch], generator), rng))
    candidates = list(dict.fromkeys(candidates))
    solved: dict[Context, set[str]] = {}
    for context in candidates:
        fair = [p for p in ahead if p not in context.examples]  # a context may not answer its own examples
        rollouts = sample(model, tokenizer, [(context, p) for p in fair], generator)
        solved[context] = {r.problem.question for r in rollouts if r.reward == 1.0}
    chosen: list[Context] = []
    covered: set[str] = set()
    for _ in range(min(K, len(candidates))):
        rest = [c for c in candidates if c not in chosen]
        best = max(rest, key=lambda c: (len(solved[c] - covered), len(solved[c])))
        chosen.append(best)
        covered |= solved[best]
    chosen = [c for c in chosen if solved[c]] or chosen[:1]
    print(
        f"  fast phase: best context solves {max(map(len, solved.values()))} of {len(ahead)}, together {len(covered)}"
    )
    return chosen


# --- slow phase: CISPO on the weights ---------------------------------------------------------------------------------


def advantages(rollouts: list[Rollout]) -> list[float]:
    """(r - mean) / (std + ε) over the G rollouts of each problem, whatever their contexts (GRPO, arXiv 2402.03300)."""
    groups: dict[str, list[float]] = {}
    for r in rollouts:
        groups.setdefault(r.problem.question, []).append(r.reward)
    result = []
    for r in rollouts:
        rewards = torch.tensor(groups[r.problem.question], dtype=torch.float64)
        centred = rewards - rewards.mean()
        result.append(float((r.reward - rewards.mean()) / (centred.square().mean().sqrt() + 1e-6)))
    return result


def cispo_loss(model, rollouts: list[Rollout]) -> torch.Tensor | None:
    """- Σ sg(min(ρ, τ)) A log π / (tokens of the problem) / problems (CISPO, arXiv 2506.13585, eq. 4-5).

    Groups whose rewards are all equal are dropped before the forward pass; None if no group is left.
    """
    scored = [(r, a) for r, a in zip(rollouts, advantages(rollouts), strict=True)]
    live = {r.problem.question for r, a in scored if abs(a) > 1e-9}
    scored = [(r, a) for r, a in scored if r.problem.question in live]
    if not scored:
        return None
    rows = [[*r.prompt_ids, *r.completion_ids] for r, _ in scored]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    tokens = {q: sum(len(r.completion_ids) for r, _ in scored if r.problem.question == q) for q in live}
    loss = torch.zeros(())
    for i, (r, advantage) in enumerate(scored):
        start, length = len(r.prompt_ids), len(r.completion_ids)
        logits_TV = logits[i, start - 1 : start - 1 + length]
        logprobs_T = -F.cross_entropy(logits_TV, torch.tensor(r.completion_ids), reduction="none")
        ratio_T = (logprobs_T - torch.tensor(r.logprobs)).exp()
        weight_T = ratio_T.clamp_max(CAP).detach()
        loss = loss - (weight_T * advantage * logprobs_T).sum() / tokens[r.problem.question] / len(live)
    return loss


def slow_step(model, optimizer, rollouts: list[Rollout], updates: int) -> float | None:
    """One AdamW step with linear warm-up; returns the loss before it, or None where every group was flat."""
    loss = cispo_loss(model, rollouts)
    if loss is None:
        return None
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for settings in optimizer.param_groups:
        settings["lr"] = LR * min(1.0, (updates + 1) / WARMUP)
    optimizer.step()
    return float(loss.detach())


# --- the loop ---------------------------------------------------------------------------------------------------------


def main(seed: int = 0, steps: int = STEPS) -> None:
    from fastslow.policy.embedded import embedded_model_dir

    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    folder = embedded_model_dir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    train, val = make_problems(seed)
    population, updates = [Context()], 0
    for step in range(steps + 1):
        if step % T == 0:
            best = population[0]
            accuracy = sum(r.reward for r in sample(model, tokenizer, [(best, p) for p in val], generator)) / len(val)
            print(f"step {step}: validation accuracy {accuracy:.2f} with the best context")
            if step == steps:
                break
            batches = [rng.sample(train, PROBLEMS) for _ in range(T)]
            ahead = list({p.question: p for batch in batches for p in batch}.values())
            population = fast_phase(model, tokenizer, population, ahead, rng, generator)
        contexts = [population[k % len(population)] for k in range(K)]
        pairs = [(c, p) for p in batches[step % T] for c in contexts for _ in range(G // K)]
        rollouts = sample(model, tokenizer, pairs, generator)
        loss = slow_step(model, optimizer, rollouts, updates)
        updates += loss is not None
        print(f"  step {step}: reward {sum(r.reward for r in rollouts) / len(rollouts):.2f}, loss {loss}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
