"""Prompts of published evaluations (classes of UCF-101, sequences of DAVIS, long sentences), and folders of clips."""

from __future__ import annotations

from f3core.hookspecs import Entry, hookimpl


@hookimpl
def f3core_prompts() -> list[Entry]:
    return [
        Entry("ucf101", "f3core_prompts.prompt_sets:Ucf101", "the 101 classes of UCF-101, such as 'apply eye makeup'"),
        Entry("davis", "f3core_prompts.prompt_sets:Davis", "the 90 sequences of DAVIS 2017, such as 'bmx bumps'"),
        Entry("longtext", "f3core_prompts.prompt_sets:LongText", "123 long sentences: scenes, motions and styles"),
    ]


@hookimpl
def f3core_datasets() -> list[Entry]:
    return [Entry("folder", "f3core.distillation.folder_data:FolderData", "clips in a folder, with their captions")]
