"""Reads a model's configuration by transformers, without what transformers computes with."""

from typing import Any

from transformers import AutoConfig

from engine.running.loaded_model import unloadable


def read_config(name: str) -> Any:
    """The configuration of a folder or hub name. StartupFailure if there is none."""
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise unloadable(name, error) from error
