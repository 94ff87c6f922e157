"""The loop, and the Avalanche traps it must not fall into."""

from dataclasses import dataclass

import pytest
import torch
from avalanche.benchmarks.scenarios.generic_scenario import MaskedAttributeError
from avalanche.training.plugins import LRSchedulerPlugin

from avcl.compat import AvalancheDataset, BaseSGDPlugin, benchmark_from_datasets, quiet_evaluator
from avcl.errors import PluginError, SettingsError, UserError
from avcl.metrics import LossTerms
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner
from avcl.training.loading import Batches, Collate, Reader
from avcl.utils.seeding import generator


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def test_finetune_equals_a_loop_written_by_hand(noise, make_learner):
    learner = make_learner(Finetune(), torch.float64)
    for experience in noise.benchmark().train_stream:
        learner.train(experience)

    backbone = small_backbone(torch.float64)
    exempt = set(backbone.no_decay())
    decay = [p for n, p in backbone.named_parameters() if p.requires_grad and p.ndim > 1 and n not in exempt]
    bare = [p for n, p in backbone.named_parameters() if p.requires_grad and (p.ndim <= 1 or n in exempt)]
    groups = [{"params": decay, "weight_decay": 5e-7}, {"params": bare, "weight_decay": 0.0}]
    adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.95, 0.999))
    mask = generator(0, "mask")
    for task in (0, 1):
        data = noise.clips(task, "train")
        for batch in Batches(clips=16, batch_size=4, epochs=2, seed=0, task=task):
            items, _ = Collate()([Reader(data, 0)[key] for key in batch])
            clip = learner_clip(items, backbone)
            adam.zero_grad()
            output = backbone(clip, backbone.draw_masks(clip, mask))
            torch.stack([term.mean() for term in output.terms.values()]).sum().backward()
            adam.step()
    by_hand = torch.cat([p.detach().flatten() for p in backbone.parameters() if p.requires_grad])
    assert torch.equal(weights(learner), by_hand)
    assert learner.steps == 16


def learner_clip(items, backbone):
    from avcl.clip import Clip

    return Clip.cut(items["frames"].double(), items["mel"].double(), backbone.patch, index=items["index"])


def test_one_optimizer_over_the_whole_stream_and_only_trained_weights_in_it(noise, make_learner):
    learner = make_learner(Finetune())
    frozen = next(learner.model.parameters())
    before = [p for group in learner.optimizer.param_groups for p in group["params"]]
    for experience in noise.benchmark().train_stream:
        learner.train(experience)
    after = [p for group in learner.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in before] == [id(p) for p in after]
    assert {int(state["step"]) for state in learner.optimizer.state.values()} == {16}
    assert frozen.requires_grad == any(p is frozen for p in after)


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


@dataclass(kw_only=True)
class SeesBoundaries(Strategy):
    """Is allowed to."""

    name = "sees-boundaries"
    needs_boundaries = True

    def begin(self, learner):
        self.ends = 0
        self._tasks = set()

    def prepare(self, learner):
        self._tasks |= set(learner.batch.task.tolist())

    def end_task(self, learner):
        self.ends += 1


def test_labels_and_boundaries_are_hidden_unless_declared(noise, make_learner):
    with pytest.raises(PluginError, match=r"strategy 'peeks' .* failed in prepare: HiddenError: clip.label is hidden"):
        make_learner(Peeks()).train(noise.benchmark().train_stream[0])
    sees = SeesBoundaries()
    make_learner(sees).train(noise.benchmark().train_stream)
    assert (sees.ends, sees._tasks) == (2, {0, 1})


class ReadsTheExperience(BaseSGDPlugin):
    def before_training_iteration(self, strategy, **kwargs):
        strategy.experience.current_experience  # noqa: B018


def test_avalanche_plugins_do_not_see_which_experience_it_is(noise, make_learner):
    learner = make_learner(Finetune(), plugins=[ReadsTheExperience()])
    with pytest.raises(MaskedAttributeError):
        learner.train(noise.benchmark().train_stream[0])


def test_the_datasets_collate_function_is_called_in_training(noise, make_learner):
    calls = []

    def collate(items):
        calls.append(len(items))
        return torch.utils.data.default_collate(items)

    data = AvalancheDataset([noise.clips(0, "train")], collate_fn=collate)
    make_learner(Finetune(), epochs=1).train(benchmark_from_datasets(train=[data]).train_stream)
    assert calls == [4, 4, 4, 4]


def test_accumulation_steps_across_experiences(make_learner):
    one_batch_tasks = Noise(tasks=4, clips_per_task=4)
    learner = make_learner(Finetune(), epochs=1, accumulate=2)
    for experience in one_batch_tasks.benchmark().train_stream:
        learner.train(experience)
    assert learner.steps == 2


def test_accumulating_halves_gives_the_mean_gradient(noise, make_learner):
    learner = make_learner(Finetune(), torch.float64, epochs=1, accumulate=2, lr=0.0)
    learner.train(noise.benchmark().train_stream[0])
    gradient = torch.cat([p.grad.flatten() for p in learner.parameters()])
    backbone, mask, data = small_backbone(torch.float64), generator(0, "mask"), noise.clips(0, "train")
    for number, batch in enumerate(Batches(clips=16, batch_size=4, epochs=1, seed=0, task=0)):
        items, _ = Collate()([Reader(data, 0)[key] for key in batch])
        clip = learner_clip(items, backbone)
        masks = backbone.draw_masks(clip, mask)
        if number >= 2:
            (backbone(clip, masks).loss.mean() / 2).backward()
    expected = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.requires_grad])
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_replayed_clips_follow_the_current_ones_and_are_never_offered_again(noise, make_learner, small_memory):
    rows = []

    @dataclass(kw_only=True)
    class Spy(ER):
        name = "spy"

        def observe(self, learner):
            in_front = torch.equal(learner.batch.index[:4], learner.current.index)
            rows.append((len(learner.batch), learner.num_current, in_front))
            super().observe(learner)

    spy = Spy(memory=small_memory())
    make_learner(spy).train(noise.benchmark().train_stream[0])
    assert rows == [(4, 4, True)] + [(8, 4, True)] * 7
    assert spy.memory.seen == 32


def test_a_memory_smaller_than_the_batch_is_replayed_whole(noise, make_learner, small_memory):
    learner = make_learner(ER(memory=small_memory(capacity=3)))
    learner.train(noise.benchmark().train_stream[0])
    assert len(learner.batch) == 4 + 3


def test_split_contrast_is_the_mean_of_two_separate_ones(noise, make_learner, small_memory):
    learner = make_learner(ER(memory=small_memory("float64"), contrastive_scope="split"), torch.float64, lr=0.0)
    learner.train(noise.benchmark().train_stream[0])
    output = learner.output
    parts = [learner.backbone.contrast(output.audio[s], output.video[s]).mean() for s in (slice(4), slice(4, None))]
    torch.testing.assert_close(learner.losses["contrastive"], (parts[0] + parts[1]).detach() / 2)
    joint = learner.backbone.contrast(output.audio, output.video).mean().detach()
    assert not torch.isclose(learner.losses["contrastive"], joint)


def test_weights_of_current_clips_multiply_every_term(noise, make_learner, small_memory):
    @dataclass(kw_only=True)
    class Heavy(ER):
        name = "heavy"

        def prepare(self, learner):
            super().prepare(learner)
            learner.weight = torch.tensor([2.0, 0.0, 1.0, 1.0], dtype=learner.dtype)

    learner = make_learner(Heavy(memory=small_memory("float64")), torch.float64)
    learner.train(noise.benchmark().train_stream[0])
    for key, term in learner.output.terms.items():
        factors = term.new_tensor([2, 0, 1, 1, 1, 1, 1, 1])
        torch.testing.assert_close(learner.losses[key], (factors * term).mean().detach())


def test_two_strategies_in_one_learner_and_a_clash_of_names(noise, make_learner, small_memory):
    @dataclass(kw_only=True)
    class Shrink(Strategy):
        name = "shrink"
        term: str = "shrink"

        def penalty(self, learner):
            return {self.term: 1e-3 * learner.output.audio.square().mean()}

    learner = make_learner([DERpp(memory=small_memory()), Shrink()])
    learner.train(noise.benchmark().train_stream[0])
    assert list(learner.losses) == ["mae_audio", "mae_video", "contrastive", "drift", "shrink"]
    with pytest.raises(UserError, match="shrink: the loss term 'contrastive' exists already; name it otherwise"):
        make_learner(Shrink(term="contrastive")).train(noise.benchmark().train_stream[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(noise, make_learner, small_memory, precision):
    learner = make_learner(DERpp(memory=small_memory()), precision=precision)
    learner.train(noise.benchmark().train_stream[0])
    assert torch.isfinite(weights(learner)).all()
    assert next(learner.model.parameters()).dtype is torch.float32
    assert learner.steps == 8


def test_warm_up_rises_linearly_then_stays(noise, make_learner):
    rates = []

    class Watch(BaseSGDPlugin):
        def before_update(self, strategy, **kwargs):
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    make_learner(Finetune(), warmup=4, plugins=[Watch()]).train(noise.benchmark().train_stream[0])
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3, 1e-3, 1e-3])


def test_avalanches_scheduler_plugin_works(noise, make_learner):
    learner = make_learner(Finetune())
    scheduler = torch.optim.lr_scheduler.StepLR(learner.optimizer, step_size=1, gamma=0.5)
    learner.plugins.insert(0, LRSchedulerPlugin(scheduler, reset_lr=False, reset_scheduler=False))
    learner.train(noise.benchmark().train_stream)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 16)


def test_the_scheduler_plugin_can_follow_the_training_loss(noise, make_learner):
    learner = make_learner(Finetune())
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(learner.optimizer, patience=0, factor=0.1, threshold=1e9)
    plugin = LRSchedulerPlugin(plateau, metric="train_loss", reset_lr=False, reset_scheduler=False)
    learner.plugins.insert(0, plugin)
    learner.train(noise.benchmark().train_stream[0])
    assert learner.optimizer.param_groups[0]["lr"] < 1e-3


def test_bad_clips_shrink_their_batch_and_are_counted(make_learner, caplog):
    scenario = Noise(tasks=1, bad=(3,))
    learner = make_learner(Finetune())
    learner.train(scenario.benchmark().train_stream)
    assert learner.bad.reasons == {"train-0-3": "made bad by the test"}
    assert learner.steps == 8
    assert caplog.messages.count("skipped train-0-3: made bad by the test") == 1
    with pytest.raises(UserError, match="2 of 16 clips of a task cannot be used"):
        make_learner(Finetune()).train(Noise(tasks=1, bad=(1, 2, 3)).benchmark().train_stream)


def test_a_batch_of_bad_clips_only_is_left_out(make_learner):
    first = next(iter(Batches(clips=16, batch_size=4, epochs=1, seed=0, task=0)))
    scenario = Noise(tasks=1, bad=tuple(clip for _, clip in first))
    learner = make_learner(Finetune(), epochs=1, max_bad_share=0.5)
    learner.train(scenario.benchmark().train_stream)
    assert learner.steps == 3


def test_evaluation_changes_nothing(noise, make_learner, small_memory):
    def train(evaluate):
        learner = make_learner(DERpp(memory=small_memory()))
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


def test_a_batch_larger_than_the_task_says_what_to_do(noise, make_learner):
    with pytest.raises(UserError, match=r"learner.batch_size: 64 is more than the 16 clips .* learner.drop_last=false"):
        make_learner(Finetune(), batch_size=64).train(noise.benchmark().train_stream[0])
    learner = make_learner(Finetune(), batch_size=64, drop_last=False)
    learner.train(noise.benchmark().train_stream[0])
    assert learner.steps == 2


def test_a_loss_that_is_not_finite_ends_the_run(noise, make_learner):
    @dataclass(kw_only=True)
    class Breaks(Strategy):
        name = "breaks"

        def penalty(self, learner):
            return {"broken": learner.output.audio.sum() * float("nan")}

    with pytest.raises(UserError, match=r"step 0: the loss is not finite \(.*broken nan\); lower learner.lr"):
        make_learner(Breaks()).train(noise.benchmark().train_stream[0])


def test_settings_are_checked(make_learner):
    with pytest.raises(SettingsError) as error:
        make_learner(Finetune(), lr=-1.0, epochs=0, precision="fp8")
    assert sorted(line.split(":")[0] for line in error.value.mistakes) == ["epochs", "lr", "precision"]


def test_loss_terms_are_what_was_differentiated(noise, make_learner):
    shown = {}

    class Keep(LossTerms):
        def _show(self, learner, step):
            values = super()._show(learner, step)
            shown.update({value.name: value.value for value in values})
            return values

    learner = make_learner(Finetune(), evaluator=quiet_evaluator(Keep(every=1)))
    learner.train(noise.benchmark().train_stream[0])
    assert shown["train/loss/total"] == pytest.approx(sum(float(x) for x in learner.losses.values()))
    assert shown["train/loss/contrastive"] == pytest.approx(float(learner.losses["contrastive"]))
