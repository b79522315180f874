def score(question: str, answer: str, completion: str, metadata: dict) -> tuple[float, str]:
    """1 for the right team, 0.2 for naming it along with other words, and a hint that the next try can use."""
    said = completion.strip().strip(".").lower()
    if said == answer:
        return 1.0, "Correct."
    if answer in said.split():
        return 0.2, "Advice: Reply with the name of the team alone."
    return 0.0, f"This message is for the team '{answer}'."
