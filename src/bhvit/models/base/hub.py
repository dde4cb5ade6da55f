"""`save_pretrained`, `from_pretrained`, `push_to_hub`: a model as a folder in the Hugging Face convention.

The folder, whose files `bhvit.hf_layout` describes, is the one that transformers reads and writes too. A local folder
needs no network; a model's id on the hub goes through huggingface_hub, which comes with timm.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from ... import hf_layout
from ...errors import UserError
from ...files import write_atomically
from ...image import Preprocess
from .backbone import Backbone
from .model_card import model_card
from .weights import build_with_weights, own_tensors, read_weights

T = TypeVar("T", bound="HubModel")


class HubModel(Backbone):
    """A model that can be saved to and loaded from such a folder.

    Its class takes a spec alone.
    """

    def save_pretrained(
        self, save_directory: str | Path, *, license: str | None = None, repo_id: str | None = None
    ) -> None:
        """Write weights, description, preprocessing and a model card to a folder, made if absent.

        Without preprocessing of its own, the model gets ImageNet's usual one. A model card that is already there
        stays. license: of the weights, for the card, which is silent about it otherwise; repo_id: what the card's
        examples load, by default the folder.
        Raises UserError if a file cannot be written, or if the classifier was taken off.
        """
        self.require_classifier()
        folder = Path(save_directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
        preprocess = self.preprocess or Preprocess.usual(self.spec.img_size, self.spec.in_chans)
        weights = safetensors.torch.save(own_tensors(self), {"format": "pt"})  # transformers refuses others
        write_atomically(folder / hf_layout.WEIGHTS, weights)
        _write_json(folder / hf_layout.CONFIG, hf_layout.config(self.spec, self.class_names, self.calibration))
        _write_json(folder / hf_layout.PREPROCESSOR, hf_layout.preprocessor(preprocess, self.spec.task == "segment"))
        card = folder / hf_layout.CARD
        if not card.exists():
            text = model_card(self.spec, self.class_names, repo_id or folder.name, license)
            write_atomically(card, text.encode())

    @classmethod
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> T:
        """Load the model of a local folder or of the Hugging Face Hub.

        It is in evaluation mode, on the CPU.

        The other arguments are for the hub, as huggingface_hub has them.
        Raises UserError if there is no such model, a file is missing or damaged, or the weights do not fit.
        """
        name = str(pretrained_model_name_or_path)
        local = Path(name).is_dir()
        if not local and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise UserError(f"there is no folder {name}, and it is not a model's id on the Hugging Face Hub")

        def find(file: str, optional: bool = False) -> Path | None:
            if local:
                return Path(name, file) if Path(name, file).is_file() else None
            try:
                return Path(
                    hf_hub_download(
                        name,
                        file,
                        revision=revision,
                        cache_dir=cache_dir,
                        token=token,
                        force_download=force_download,
                        local_files_only=local_files_only,
                    )
                )
            except EntryNotFoundError as error:
                # The model is there without the file; "local", the file was not kept and the hub was not asked.
                if optional or not isinstance(error, LocalEntryNotFoundError):
                    return None
                raise UserError(_not_given(name, error)) from error
            except (HfHubHTTPError, OSError, ValueError) as error:
                raise UserError(_not_given(name, error)) from error

        config, weights = find(hf_layout.CONFIG), find(hf_layout.WEIGHTS)
        if config is None or weights is None:
            raise UserError(f"{name} has no {hf_layout.WEIGHTS if config else hf_layout.CONFIG}")
        spec, class_names = hf_layout.read_json(config, hf_layout.read_config)
        tensors = {key.removeprefix(hf_layout.PREFIX): value for key, value in read_weights(weights)[0].items()}
        model = build_with_weights(cls, spec, tensors, weights)
        model.class_names, model.calibration = class_names, hf_layout.read_json(config, hf_layout.read_calibration)
        preprocessor = find(hf_layout.PREPROCESSOR, optional=True)
        if preprocessor is not None:
            model.preprocess = hf_layout.read_json(preprocessor, hf_layout.read_preprocessor)
        return model.eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a bhvit model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; the repository is made if absent.

        A model card that is already there stays. Returns the address of the commit.
        Raises UserError if the hub refuses, or if the classifier was taken off.
        """
        self.require_classifier()
        api = HfApi(token=token)
        try:
            name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            kept = [hf_layout.CARD] if api.file_exists(name, hf_layout.CARD, revision=revision) else None
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder, license=license, repo_id=name)
                return str(
                    api.upload_folder(
                        repo_id=name,
                        folder_path=folder,
                        commit_message=commit_message,
                        revision=revision,
                        create_pr=create_pr,
                        ignore_patterns=kept,
                    )
                )
        except (HfHubHTTPError, OSError) as error:
            raise UserError(f"the hub does not take {repo_id}: {_first_line(error)}") from error


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode())


def _not_given(name: str, error: Exception) -> str:
    return f"there is no folder {name}, and the hub does not give it: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
