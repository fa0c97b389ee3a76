"""Many tensors that do not fit are reported as a summary and one line for each kind, in the order of the layers."""

from app.registry.adapter_files.condense import condensed


def path(layer: int, name: str, side: str) -> str:
    return f"model.language_model.layers.{layer}.self_attn.{name}.lora_{side}.weight"


def test_problems_of_many_layers_are_few_lines_with_a_summary_first() -> None:
    layers = [10, 2, *range(3, 10), 0, 1]
    tensors = {path(layer, name, side) for layer in layers for name in ("q_proj", "v_proj") for side in "AB"}
    wrong = [f"{one} has shape (4, 32), this base and its rank need (4, 64)" for one in sorted(tensors, reverse=True)]
    lines = condensed(["it was trained over 'x'", *wrong], tensors)
    assert lines[0] == "it was trained over 'x'"
    assert lines[1].startswith("44 of its 44 tensors do not fit this base: it was trained over another model, or with")
    assert lines[2:] == [
        f"{path(0, name, side).replace('.0.', '.*.')} (11 tensors, layers 0 to 10) has shape (4, 32), this base and "
        "its rank need (4, 64)"
        for name in ("q_proj", "v_proj")
        for side in "AB"
    ]


def test_few_problems_stay_as_they_are() -> None:
    tensors = {path(layer, "q_proj", side) for layer in (0, 1, 5) for side in "AB"}
    alone = f"{path(1, 'q_proj', 'A')} has no counterpart {path(1, 'q_proj', 'B')}"
    assert condensed([alone], tensors) == [alone]
    both = [alone, f"{path(5, 'q_proj', 'A')} has no counterpart {path(5, 'q_proj', 'B')}"]
    (line,) = condensed(both, tensors)
    assert line.startswith(
        "model.language_model.layers.*.self_attn.q_proj.lora_A.weight (2 tensors, layers 1, 5) has no"
    )
    assert condensed(["adapter_model.safetensors is missing"], tensors) == ["adapter_model.safetensors is missing"]
