"""LightningCLI with this project's defaults: fit, validate, test, predict, and plan, which only counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from taigi_lightning.cli.commands import COMMANDS, COMPLETION
from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.cli.config_locations import where
from taigi_lightning.cli.impossible_values import impossible_value
from taigi_lightning.cli.log_filters import quieten
from taigi_lightning.cli.machine_errors import explain
from taigi_lightning.cli.monitor_checks import check_monitors
from taigi_lightning.cli.own_classes import prefer_torch, take_own_model
from taigi_lightning.cli.run_checks import (
    BARE,
    as_list,
    asked_to_log,
    auto_precision,
    check_precision_plugins,
    check_run,
    continue_wandb,
    print_metrics,
    refusal,
    stage_of,
)

# Imported so that a YAML may name their classes without the module: `class_path: CPTDataModule`.
from taigi_lightning.data import cpt as _cpt  # noqa: F401
from taigi_lightning.data import instruction as _instruction  # noqa: F401
from taigi_lightning.data import predict as _predict  # noqa: F401
from taigi_lightning.data import sft as _sft  # noqa: F401
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.prediction_writer import PredictionWriter
from taigi_lightning.evaluation.run_reports import report_predictions, report_training
from taigi_lightning.evaluation.sample_answers import HeldOutAnswers
from taigi_lightning.evaluation.sample_text import HeldOutText
from taigi_lightning.evaluation.sample_writing import WrittenSamples
from taigi_lightning.evaluation.test_report import AnswerReport
from taigi_lightning.planning.command import add_arguments as add_plan_arguments
from taigi_lightning.planning.command import print_plan
from taigi_lightning.planning.monitors import chosen_mode
from taigi_lightning.training.best_checkpoint import TakeBest, checkpoint_callbacks
from taigi_lightning.training.callbacks import ExportModel, SaveOnSignal, SaveRunConfig
from taigi_lightning.training.checkpoint_files import AsideCheckpointIO, RunCheckpoint
from taigi_lightning.training.checkpoints import check_goes_on, checkpoint_folder, find_checkpoint
from taigi_lightning.training.distributed import check_strategy
from taigi_lightning.training.module import CausalLMModule
from taigi_lightning.training.progress_bar import StepProgress
from taigi_lightning.training.run_folder import RunFolder
from taigi_lightning.training.run_identity import read_run
from taigi_lightning.training.run_summary import Announcement
from taigi_lightning.training.stage_model import check_start
from taigi_lightning.training.throughput import Throughput
from taigi_lightning.training.wandb_artifacts import AnswersByStep, name_stage

TOKENIZER = "data.init_args.tokenizer"


class StageParser(SuggestingParser, LightningArgumentParser):
    """Lightning's parser, with this project's error messages."""

    commands: Any = None

    def add_subcommands(self, *arguments: Any, **options: Any) -> Any:
        """Keep hold of what takes more subcommands."""
        self.commands = super().add_subcommands(*arguments, **options)
        return self.commands


class TaigiCLI(LightningCLI):
    """One YAML a stage. What every stage needs is filled in here, so that no YAML has to repeat it."""

    def __init__(self, model_class: type[CausalLMModule] = CausalLMModule, **options: Any) -> None:
        """Run the command line over a module, or one derived from it; options are LightningCLI's."""
        prefer_torch()
        defaults: dict[str, Any] = {
            "datamodule_class": pl.LightningDataModule,
            "subclass_mode_data": True,
            "auto_configure_optimizers": False,
            "parser_class": StageParser,
            "save_config_callback": SaveRunConfig,
            "save_config_kwargs": {"save_to_log_dir": False},
        }
        super().__init__(model_class, **(defaults | options))

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Add `plan`, which takes the options of `fit` and some of its own."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        if sys.argv[1:2] and sys.argv[1] in LightningCLI.subcommands():
            return
        plan = self.init_parser(description="Say what a config will need of card, disk and time.")
        self.add_default_arguments_to_parser(plan)
        self.add_core_arguments_to_parser(plan)
        self.add_arguments_to_parser(plan)
        plan.add_method_arguments(pl.Trainer, "fit", skip=set(LightningCLI.subcommands()["fit"]))
        add_plan_arguments(plan)
        self.parser.commands.add_subcommand("plan", plan, help=COMMANDS["plan"])  # type: ignore[attr-defined]

    def _parse_ckpt_path(self) -> None:
        """Let the command line's values count: Lightning would silently put the checkpoint's in their place."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command that was typed alone, where one was: each takes a quarter of a second to describe."""
        known = LightningCLI.subcommands()
        typed = sys.argv[1:2]
        return {name: skip for name, skip in known.items() if name in typed or typed[:1] == [COMPLETION]}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse what cannot run before anything is loaded; look for the checkpoint; a plan ends here."""
        super().parse_arguments(parser, args)
        # The parser itself refuses other linked settings, but lets a link overwrite one of a class.
        if where(TOKENIZER, SuggestingParser.arguments):
            parser.error(f'Linked "{TOKENIZER}" must be given via "model.base".')
        command = self.config.subcommand
        config = self.config[command]
        if fault := impossible_value(config.as_dict(), SuggestingParser.arguments):
            parser.error(fault)
        if command == "plan":
            self.plan(config)
        if command != "fit" and not asked_to_log(SuggestingParser.arguments):
            config.trainer.logger = False  # a stage's config names what `fit` logs to
        check_run(command, config)
        if command == "fit":
            check_monitors(config, own_model=self._model_class is not CausalLMModule)
            name_stage(stage_of(config.data.class_path), str(config.model.base))
        config.checkpoint.mode = chosen_mode(config.checkpoint.monitor, config.checkpoint.mode)
        if config.get("ckpt_path"):
            self.resolve_checkpoint(config)

    def resolve_checkpoint(self, config: Namespace) -> None:
        """Find the checkpoint that `ckpt_path` names, and go on with its run's page at Weights & Biases.

        Raises:
            InputError: there is no such checkpoint, or `fit` cannot go on from it.
        """
        root = Path(config.trainer.default_root_dir or ".")
        config["ckpt_path"] = found = find_checkpoint(str(config["ckpt_path"]), root)
        if self.config.subcommand == "fit":
            check_goes_on(Path(found))
        run = read_run(root)
        if run is not None and run.wandb and root.resolve() in Path(config["ckpt_path"]).resolve().parents:
            continue_wandb(as_list(config.trainer.logger), run.wandb)

    def plan(self, config: Namespace) -> NoReturn:
        """Say what the config needs, and end."""
        print_plan(config.as_dict())
        sys.exit(0)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections `checkpoint`, `samples`, `export` and `run`, and hand the base's tokenizer to the data."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "{step}",
                "checkpoint.monitor": "step",
                "checkpoint.mode": "auto",
                "checkpoint.save_top_k": 2,
                "checkpoint.every_n_train_steps": 100,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments(
            "trainer.default_root_dir",
            "checkpoint.dirpath",
            compute_fn=lambda root: str(checkpoint_folder(root)),
        )
        parser.add_lightning_class_args(WrittenSamples, "samples")
        parser.add_lightning_class_args(ExportModel, "export")
        parser.add_lightning_class_args(RunFolder, "run")  # after the export: then the run is finished
        parser.link_arguments("model.base", TOKENIZER)
        if sys.argv[1:2] == ["predict"]:
            parser.add_argument(
                "--excel", type=bool, default=False, help="write CSV with the mark by which Excel knows UTF-8"
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Fill in the precision this machine has, a CSV log beside any other, and our callbacks."""
        config = self.config_init[self.subcommand]["trainer"]
        check_strategy(config.get("strategy") or "auto")
        if config.get("precision") is None:
            kwargs["precision"] = auto_precision(str(config.get("accelerator") or "auto"))
        bare = bool(config.get("barebones"))
        kwargs["enable_model_summary"] = config.get("enable_model_summary") is True
        kwargs["use_distributed_sampler"] = False  # the data modules share out the data themselves
        root = Path(config.get("default_root_dir") or ".")
        loggers = config.get("logger")
        if bare:
            kwargs |= BARE
        elif self.subcommand == "fit" and loggers is not False:
            kwargs["logger"] = [*as_list(loggers), CSVLogger(str(root / "logs"), name="")]
        else:
            kwargs["logger"] = as_list(loggers) if loggers else False
        plugins = as_list(config.get("plugins"))
        check_precision_plugins(plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AsideCheckpointIO()]
        callbacks = as_list(config.get("callbacks"))
        shown = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config.get("enable_progress_bar") is not False and not shown and not bare:
            callbacks.append(StepProgress())
        if self.subcommand == "fit":
            measured = [] if bare else [Throughput()]
            callbacks += [
                TakeBest(),
                Announcement(),
                *measured,
                SaveOnSignal(),
                HeldOutText(),
                HeldOutAnswers(),
                AnswersByStep(),
            ]
        if self.subcommand == "test":
            callbacks.append(AnswerReport())
        for writer in (callback for callback in callbacks if isinstance(callback, PredictionWriter)):
            writer.excel = writer.excel or bool(self.config_init[self.subcommand].get("excel"))
        kwargs["callbacks"] = callbacks
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            if explain(error):  # no GPU, for one
                raise
            raise InputError(f"Lightning refuses the settings of trainer: {error}") from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> pl.Trainer:
        """Keep checkpoints as `checkpoint_callbacks` says, or none where they are off, which Lightning would refuse."""
        off = config.get("enable_checkpointing") is False or config.get("barebones")
        kept = [] if off else checkpoint_callbacks(self._get(self.config, "checkpoint").as_dict())
        others = [callback for callback in callbacks if not isinstance(callback, RunCheckpoint)]
        return super()._instantiate_trainer(config, [*kept, *others])

    def after_instantiate_classes(self) -> None:
        """Refuse the folder of another run, and a base that is not whole, before anything is loaded.

        Raises:
            InputError: a run is in the folder already, or `check_start`'s.
        """
        checkpoint = self._get(self.config, "ckpt_path") or ""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunFolder):
                callback.check_start(self.trainer, str(self.subcommand), checkpoint)
        check_start(self.model, self.datamodule)

    def validate(self, verbose: bool = True, **options: Any) -> None:
        """Run `validate` and show each metric once; Lightning's table shows all of them for every dataloader.

        Raises:
            InputError: nothing is held out.
        """
        self.trainer.validate(verbose=False, **options)
        if not self.trainer.callback_metrics:
            raise InputError(
                "Nothing is held out to validate on. Set data.validation_split for texts, or "
                "data.validation_fraction or data.validation_file for questions."
            )
        if verbose and self.trainer.is_global_zero:
            print_metrics(self.trainer.callback_metrics)

    def after_fit(self) -> None:
        """Leave a report, and cards beside the adapter and the whole model."""
        report_training(self.trainer)

    def after_predict(self) -> None:
        """Leave a report beside the predictions."""
        report_predictions(self.trainer, self.model, self.datamodule)


def main(
    cli: type[TaigiCLI] = TaigiCLI,
    parser_class: type[StageParser] = StageParser,
    prog: str = "python -m taigi_lightning",
) -> TaigiCLI:
    """Parse the command line and run one of Lightning's subcommands."""
    quieten()
    # Nothing of Python's own library is an optimizer, a callback or data; much of it does what a config must not.
    set_parsing_settings(
        import_path_denylist=sorted(name for name in sys.stdlib_module_names if name.isidentifier()),
        instantiate_subclass_spec_in_any=False,
    )
    model = take_own_model(CausalLMModule)
    try:
        return cli(model, parser_class=parser_class, parser_kwargs={"prog": prog})
    except Exception as error:
        sentence = refusal(error)
        if sentence is None or explain(error):
            raise
        raise InputError(sentence) from error
