"""vLLM's side of benchmarks/sampling.py, run by the Python of an environment that has vLLM: vllm_side.py JOB.json

For each line on stdin it samples the job's prompts once, with an empty prefix cache, and prints ``seconds N``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")  # all cores, as the others have

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB: by itself it wants more than the other sides leave

from vllm import LLM, SamplingParams


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    longest = max(map(len, job["prompts"])) + job["new_tokens"]
    llm = LLM(
        model=job["model"], dtype=job["dtype"], enable_prefix_caching=True, max_model_len=longest + 64,
        max_num_seqs=len(job["prompts"]), seed=0,
    )  # fmt: skip
    params = SamplingParams(
        temperature=1.0, max_tokens=job["new_tokens"], min_tokens=job["new_tokens"], ignore_eos=True, logprobs=0
    )
    prompts = [{"prompt_token_ids": p} for p in job["prompts"]]
    for _ in sys.stdin:
        llm.reset_prefix_cache()
        start = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        print(f"seconds {time.perf_counter() - start:.4f}", flush=True)


if __name__ == "__main__":
    main()
