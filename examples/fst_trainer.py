"""TRL's GRPO quickstart as Fast-Slow Training: a dataset, a reward function, and feedback for the contexts."""

from datasets import Dataset

from fastslow.policy.embedded import embedded_model_dir  # or a hub id: "Qwen/Qwen3-0.6B"
from fastslow.trl import FSTConfig, FSTTrainer

rows = [(a, b) for a in range(1, 9) for b in range(1, 9)]
dataset = Dataset.from_list([{"prompt": f"What is {a} plus {b}?", "answer": f"[{a + b}]"} for a, b in rows])


def reward(completions, answer, **_):
    return [float(said.strip() == gold) for said, gold in zip(completions, answer)]


def feedback(completions, answer, **_):
    return [f"You said {said.strip()!r}. The answer is {gold}." for said, gold in zip(completions, answer)]


args = FSTConfig("runs/fst-trainer", num_contexts=2, fast_every=2, fast_budget=48, max_steps=2, num_generations=4,
                 per_device_train_batch_size=16, max_completion_length=8, stop=["\n"], learning_rate=1.5e-5,
                 bf16=False, gradient_checkpointing=False, logging_steps=1, report_to=[])  # fmt: skip
trainer = FSTTrainer(str(embedded_model_dir()), reward, args, dataset, feedback_func=feedback)
trainer.train()
print(trainer.population.best.examples)
