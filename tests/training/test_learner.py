"""The loop, and the Avalanche traps it must not fall into."""

from dataclasses import dataclass

import pytest
import torch
from avalanche.benchmarks.scenarios.generic_scenario import MaskedAttributeError
from avalanche.training.plugins import LRSchedulerPlugin
from helpers.toys import first_task, read, small, small_learner, train, weights
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from avcl.compat import AvalancheDataset, BaseSGDPlugin, benchmark_from_datasets, quiet_evaluator
from avcl.errors import PluginError, SettingsError, UserError
from avcl.metrics import LossTerms
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner
from avcl.training.loading import Batches
from avcl.utils.seeding import generator


def test_frozen_weights_stay_out_of_the_optimizer(noise):
    backbone = small_backbone()
    backbone.requires_grad_(False)
    trained = next(p for n, p in backbone.named_parameters() if "decoder" in n)
    trained.requires_grad_(True)
    learner = Learner(backbone=backbone, strategy=Finetune(), epochs=1, batch_size=8, lr=1e-3)
    learner.train(noise.benchmark().train_stream[0])
    assert [p for group in learner.optimizer.param_groups for p in group["params"]] == [trained]


@dataclass(kw_only=True)
class Peeks(Strategy):
    """Reads what it must not."""

    name = "peeks"

    def prepare(self, learner):
        learner.batch.label  # noqa: B018


def test_labels_are_hidden_unless_boundaries_are_declared():
    with pytest.raises(PluginError, match=r"strategy 'peeks' .* failed in prepare: HiddenError: clip.label is hidden"):
        first_task(Peeks())


class ReadsTheExperience(BaseSGDPlugin):
    def before_training_iteration(self, strategy, **kwargs):
        strategy.experience.current_experience  # noqa: B018


def test_avalanche_plugins_do_not_see_which_experience_it_is():
    with pytest.raises(MaskedAttributeError):
        first_task(Finetune(), plugins=[ReadsTheExperience()])


def test_the_datasets_collate_function_is_called_in_training(noise, make_learner):
    calls = []

    def collate(items):
        calls.append(len(items))
        return torch.utils.data.default_collate(items)

    data = AvalancheDataset([noise.clips(0, "train")], collate_fn=collate)
    make_learner(Finetune(), epochs=1).train(benchmark_from_datasets(train=[data]).train_stream)
    assert calls == [4, 4, 4, 4]


def test_accumulation_steps_across_experiences(make_learner):
    learner = make_learner(Finetune(), epochs=1, accumulate=2)
    train(learner, Noise(tasks=4, clips_per_task=4))
    assert learner.steps == 2


def test_accumulating_halves_gives_the_mean_gradient():
    learner = first_task(Finetune(), torch.float64, epochs=1, accumulate=2, lr=0.0)
    gradient = torch.cat([p.grad.flatten() for p in learner.parameters()])
    backbone, mask = small_backbone(torch.float64), generator(0, "mask")
    for number, batch in enumerate(Batches(clips=16, batch_size=4, epochs=1, seed=0, task=0)):
        clip = read(batch)
        masks = backbone.draw_masks(clip, mask)
        if number >= 2:
            (backbone(clip, masks).loss.mean() / 2).backward()
    expected = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.requires_grad])
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_memory_smaller_than_the_batch_is_replayed_whole():
    assert len(first_task(small(ER, capacity=3)).batch) == 4 + 3


def test_two_strategies_in_one_learner_and_a_clash_of_names():
    @dataclass(kw_only=True)
    class Shrink(Strategy):
        name = "shrink"
        term: str = "shrink"

        def penalty(self, learner):
            return {self.term: 1e-3 * learner.output.audio.square().mean()}

    learner = first_task([small(DERpp), Shrink()])
    assert list(learner.losses) == ["mae_audio", "mae_video", "contrastive", "drift", "shrink"]
    with pytest.raises(UserError, match="shrink: the loss term 'contrastive' exists already; name it otherwise"):
        first_task(Shrink(term="contrastive"))


def test_warm_up_rises_linearly_then_stays():
    rates = []

    class Watch(BaseSGDPlugin):
        def before_update(self, strategy, **kwargs):
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    first_task(Finetune(), warmup=4, plugins=[Watch()])
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("make", "metric"),
    [
        (lambda adam: StepLR(adam, step_size=1, gamma=0.5), None),
        (lambda adam: ReduceLROnPlateau(adam, patience=0, factor=0.5, threshold=1e9), "train_loss"),
    ],
)
def test_avalanches_scheduler_plugin_works_and_can_follow_the_training_loss(noise, make_learner, make, metric):
    learner = make_learner(Finetune())
    settings = {"metric": metric} if metric else {}
    plugin = LRSchedulerPlugin(make(learner.optimizer), reset_lr=False, reset_scheduler=False, **settings)
    learner.plugins.insert(0, plugin)
    learner.train(noise.benchmark().train_stream[0])
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


def test_bad_clips_shrink_their_batch_and_are_counted(caplog):
    learner = first_task(Finetune(), scenario=Noise(bad=(3,)))
    assert learner.bad.reasons == {"train-0-3": "made bad by the test"}
    assert learner.steps == 8
    assert caplog.messages.count("skipped train-0-3: made bad by the test") == 1
    with pytest.raises(UserError, match="2 of 16 clips of a task cannot be used"):
        first_task(Finetune(), scenario=Noise(bad=(1, 2, 3)))


def test_a_batch_of_bad_clips_only_is_left_out():
    first = next(iter(Batches(clips=16, batch_size=4, epochs=1, seed=0, task=0)))
    scenario = Noise(bad=tuple(clip for _, clip in first))
    assert first_task(Finetune(), scenario=scenario, epochs=1, max_bad_share=0.5).steps == 3


def test_evaluation_changes_nothing(noise):
    def train(evaluate):
        learner = small_learner(small(DERpp), epochs=1)
        benchmark = noise.benchmark()
        for experience in benchmark.train_stream:
            learner.train(experience)
            if evaluate:
                learner.eval(benchmark.eval_stream)
        return weights(learner)

    assert torch.equal(train(True), train(False))


def test_a_stream_may_be_a_generator(noise, make_learner):
    learner = make_learner(Finetune(), epochs=1)
    learner.train(experience for experience in noise.benchmark().train_stream)
    assert learner.tasks_done == 2


def test_stopping_early_ends_the_experience_only(noise, make_learner):
    class Stop(BaseSGDPlugin):
        def after_training_iteration(self, strategy, **kwargs):
            if strategy.clock.train_iterations == 2:
                strategy.stop_training()

    learner = make_learner(Finetune(), plugins=[Stop()])
    learner.train(noise.benchmark().train_stream)
    assert (learner.tasks_done, learner.steps) == (2, 3 + 8)


def test_a_batch_larger_than_the_task_says_what_to_do():
    with pytest.raises(UserError, match=r"learner.batch_size: 64 is more than the 16 clips .* learner.drop_last=false"):
        first_task(Finetune(), batch_size=64)
    assert first_task(Finetune(), batch_size=64, drop_last=False).steps == 2


def test_a_loss_that_is_not_finite_ends_the_run():
    @dataclass(kw_only=True)
    class Breaks(Strategy):
        name = "breaks"

        def penalty(self, learner):
            return {"broken": learner.output.audio.sum() * float("nan")}

    with pytest.raises(UserError, match=r"step 0: the loss is not finite \(.*broken nan\); lower learner.lr"):
        first_task(Breaks())


def test_settings_are_checked(make_learner):
    with pytest.raises(SettingsError) as error:
        make_learner(Finetune(), lr=-1.0, epochs=0, precision="fp8")
    assert sorted(line.split(":")[0] for line in error.value.mistakes) == ["epochs", "lr", "precision"]


def test_loss_terms_are_what_was_differentiated():
    learner = first_task(Finetune(), evaluator=quiet_evaluator(LossTerms(every=1)))
    shown = learner.evaluator.get_last_metrics()
    assert shown["train/loss/total"] == pytest.approx(sum(float(x) for x in learner.losses.values()))
    assert shown["train/loss/contrastive"] == pytest.approx(float(learner.losses["contrastive"]))


def test_settings_are_used_as_they_were_validated():
    """Text that says a number is one: from a YAML file, say."""
    learner = first_task(Finetune(), lr="1e-3", batch_size="4", epochs="1", clip_norm="0.5")
    assert learner.optimizer.param_groups[0]["lr"] == 1e-3
    assert (learner.update.clip_norm, learner.steps) == (0.5, 4)
