"""``level: small``: dataset settings at which a model of about 135M parameters can be taught.

Only the keys that differ from Reasoning Gym's defaults stand here; ``task.config`` goes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL: Mapping[str, Mapping[str, Any]] = {
    "base_conversion": {"min_base": 2, "max_base": 4, "min_value": 1, "max_value": 64},
    "basic_arithmetic": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "allow_parentheses": False},
    "binary_alternation": {"min_n": 3, "max_n": 6},
    "caesar_cipher": {"min_words": 1, "max_words": 2, "min_rotation": 1, "max_rotation": 3},
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "count_bits": {"min_n": 1, "max_n": 255},
    "decimal_chain_sum": {
        "min_terms": 2,
        "max_terms": 2,
        "min_digits": 1,
        "max_digits": 1,
        "min_decimal_places": 1,
        "max_decimal_places": 1,
    },
    "fraction_simplification": {"min_value": 1, "max_value": 9, "min_factor": 2, "max_factor": 5},
    "gcd": {"min_value": 1, "max_value": 12},
    "isomorphic_strings": {"min_string_length": 2, "max_string_length": 4},
    "lcm": {"min_value": 1, "max_value": 12},
    "leg_counting": {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 4},
    "letter_counting": {"min_words": 3, "max_words": 6},
    "letter_jumble": {"min_words": 1, "max_words": 1, "min_word_len": 3, "max_word_len": 5},
    "number_filtering": {"min_numbers": 3, "max_numbers": 4, "min_decimals": 0, "max_decimals": 0},
    "number_format": {"min_num_candidates": 2, "max_num_candidates": 2, "min_n": 10, "max_n": 1000},
    "number_sequence": {"min_terms": 4, "max_terms": 5, "min_value": 0, "max_value": 9, "max_complexity": 1},
    "number_sorting": {
        "min_numbers": 3,
        "max_numbers": 3,
        "min_decimals": 0,
        "max_decimals": 0,
        "min_value": 0,
        "max_value": 20,
    },
    "path_star": {"degree": 2, "node_range": 20, "min_path_length": 2, "max_path_length": 3},
    "prime_factorization": {"min_value": 2, "max_value": 100},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "ransom_note": {"min_note_length": 1, "max_note_length": 4, "min_magazine_length": 2, "max_magazine_length": 8},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 9},
    "spell_backward": {"min_word_len": 3, "max_word_len": 4},
    "string_insertion": {"min_string_length": 5, "max_string_length": 7},
    "string_manipulation": {"min_string_length": 5, "max_string_length": 6, "min_num_rules": 3, "max_num_rules": 3},
    "time_intervals": {"task_types": ["time"], "max_time_difference_seconds": 3600},
    "word_sequence_reversal": {"min_words": 2, "max_words": 4},
    "word_sorting": {"min_words": 2, "max_words": 3, "min_word_length": 3, "max_word_length": 6},
}


def small_preset(name: str) -> dict[str, Any]:
    """The small settings of a dataset; empty where there are none (its defaults are used)."""
    return dict(SMALL.get(name, {}))
