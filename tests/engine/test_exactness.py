"""Base logits are the same bits at start and after any adapters have come and gone."""

import torch

from tests.engine.driver import Driver, Job


def logits_of(driver: Driver, job: Job) -> torch.Tensor:
    """Last-position logits of a prompt, taken where the sampler gets them."""
    seen = []
    decoder = driver.engine.runner.decoder
    original = decoder._logits

    def spy(hidden, last):
        rows = original(hidden, last)
        seen.extend(row.clone() for row in rows)
        return rows

    decoder._logits = spy
    driver.ask(job)
    decoder._logits = original
    return torch.stack(seen)


def test_bit_equal_after_load_evict_and_unload(drive):
    driver = drive(max_resident=2)
    before = logits_of(driver, Job())
    driver.ask(*[Job(((name, 1.0),)) for name in driver.adapters])
    after_use = logits_of(driver, Job())
    driver.engine.free_slots().result()
    after_unload = logits_of(driver, Job())
    assert torch.equal(before, after_use)
    assert torch.equal(before, after_unload)


def test_poisoned_pages_never_reach_an_answer(drive, expected):
    """NaN in every free page: whatever lies in unused memory is never read."""
    driver = drive()

    def poison():
        cache = driver.engine.runner.cache
        cache.keys[:, : cache.null] = float("nan")
        cache.values[:, : cache.null] = float("nan")

    driver.engine.call(poison).result()
    jobs = [Job(), Job((("qv", 1.0),), (1, 2)), Job((("dora", 1.0),))]
    assert [answer.tokens for answer in driver.ask(*jobs)] == [expected(job) for job in jobs]


def test_an_overflowing_neighbour_is_lost_alone(drive, expected):
    """An adapter whose products overflow gives NaN rows; the rows beside it stay exact."""
    driver = drive()
    driver.ask(Job((("qv", 1.0),)))

    def blow_up():
        for layer in driver.engine.runner.bank._layers.values():
            if layer.users:
                layer.lora_a.fill_(1e30)
                layer.lora_b.fill_(1e30)

    driver.engine.call(blow_up).result()
    broken, fine = driver.ask(Job((("qv", 1.0),)), Job())
    assert broken.error is not None
    assert "not finite" in str(broken.error)
    assert fine.tokens == expected(Job())
    driver.assert_idle()
