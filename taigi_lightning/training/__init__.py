"""The LightningModule, its callbacks, checkpoints and schedules."""
