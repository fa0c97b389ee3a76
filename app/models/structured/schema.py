"""A JSON schema as a grammar of llguidance (https://github.com/guidance-ai/llguidance), and its trial.

llguidance bounds most of its work, but not all: twenty intersected patterns (459 bytes) keep its compiler busy for
minutes, and a chain of a thousand references overflows its stack, which ends the process. So a schema is first
compiled, and followed for some steps, in a process of its own: `python -m app.models.structured.schema` reads one from
standard input, ends with 0 when it can be followed, with 1 and the reason when it cannot, or does not get that far.
"""

import random
import subprocess
import sys
import threading

import llguidance

from app.errors import BadRequest

MAX_BYTES = 64 << 10
CPU_SECONDS = 2
WALL_SECONDS = 30.0  # a machine may be busy with other things
MEMORY_BYTES = 2 << 30  # of address space
STACK_BYTES = 2 << 20  # a quarter of what threads have here, so that who passes is far from the end
NICE = 10  # the engine goes first
STEPS = 200
WHITESPACE = r" |\n {0,16}"  # as json.dumps writes it, with or without an indent; never endless


def grammar_of(schema: str) -> str:
    """The grammar of a schema's JSON text."""
    return llguidance.LLMatcher.grammar_from_json_schema(
        schema, overrides={"whitespace_pattern": WHITESPACE, "lenient": False}
    )


def matcher_of(tokenizer: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    """A compiled grammar; look at `get_error`. A step may take some 10 ms at most, the lexer some 20 MB."""
    limits = llguidance.LLParserLimits(
        step_lexer_fuel=100_000, step_max_items=20_000, max_lexer_states=10_000, verbose_errors=False
    )
    return llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


def reason(error: str) -> str:
    """llguidance's message, fit for a sentence."""
    return " ".join(error.removesuffix("<non-verbose/>").split())[:300]


def refuse_hostile(schema: str) -> None:
    """Blocks for about 0.1 s. Raises BadRequest for a schema that cannot be followed, or not within the limits."""
    command = [sys.executable, "-m", "app.models.structured.schema"]
    # nothing of this process's environment is needed there but where the modules are
    environment = {"PYTHONPATH": ":".join(path or "." for path in sys.path)}
    try:
        done = subprocess.run(
            command, input=schema.encode(), capture_output=True, timeout=WALL_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise _too_complex() from None
    if done.returncode == 1 and done.stdout:
        raise BadRequest(f"This server cannot follow the JSON schema: {done.stdout.decode(errors='replace')}")
    if done.returncode != 0:
        raise _too_complex()


def _too_complex() -> BadRequest:
    return BadRequest(
        "The JSON schema takes too long to compile; use fewer and simpler patterns, alternatives and references."
    )


def _try(schema: str) -> str:
    """Compile, and follow at random for some steps, byte by byte; why the answer cannot even begin, or nothing."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = matcher_of(tokenizer, grammar_of(schema))
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        return reason(matcher.get_error())
    drawn = random.Random(0)
    for _ in range(STEPS):
        allowed = [token for token in range(tokenizer.vocab_size) if mask[token // 8] >> token % 8 & 1]
        if not allowed or not matcher.consume_token(drawn.choice(allowed)) or matcher.is_stopped():
            break
        mask = matcher.compute_bitmask()
    return ""


def _main() -> int:
    import os
    import resource

    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    schema = sys.stdin.read()
    said: list[str] = []
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=lambda: said.append(_try(schema)))
    thread.start()
    thread.join()
    (why,) = said
    sys.stdout.write(why)
    return int(why != "")


if __name__ == "__main__":
    sys.exit(_main())
