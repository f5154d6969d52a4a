"""Which captioner describes uploads; BLIP's class on a tiny checkpoint; renting a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.config import Settings
from core.errors import ModelError, ModelNotFoundError
from core.models.captioner.blip import BlipCaptioner
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.settings import Decoding
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec
from core.uploads.captioner import (
    first_guess_s,
    upload_captioner,
)
from tests.tiny_models import save_tiny_blip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_blip(tmp_path_factory.mktemp("tiny") / "blip")


NO_WORD_TWICE = Decoding(
    prompt="",
    retry_prompt="",
    num_beams=2,
    min_new_tokens=3,
    max_new_tokens=8,
    repetition_penalty=1.0,
    no_repeat_ngram_size=1,
)


def captioner_of(folder, decoding=None) -> BlipCaptioner:
    spec = ModelSpec("tiny-blip", f"path:{folder}", licence="none")
    return BlipCaptioner(spec, device="cpu", decoding=decoding)


def noise(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(count)]


class TestBlip:
    def test_captions_are_those_of_the_bare_model(self, checkpoint):
        import torch
        from transformers import BlipForConditionalGeneration, BlipProcessor

        images = noise(4)
        captions = captioner_of(checkpoint, NO_WORD_TWICE).caption(images)
        processor = BlipProcessor.from_pretrained(checkpoint)
        model = BlipForConditionalGeneration.from_pretrained(checkpoint).eval()
        with torch.inference_mode():
            tokens = model.generate(
                **processor(images=images, return_tensors="pt"),
                do_sample=False,
                num_beams=2,
                min_new_tokens=3,
                max_new_tokens=8,
                no_repeat_ngram_size=1,
            )
        expected = processor.batch_decode(tokens, skip_special_tokens=True)
        assert [caption.text for caption in captions] == expected
        assert len(set(expected)) == 4
        assert all(0 < caption.confidence <= 1 for caption in captions)

    def test_a_caption_that_repeats_itself_is_tried_again(self, checkpoint):
        captions = captioner_of(checkpoint).caption(noise(4))
        assert all(caption.flags[-1] == "retried" for caption in captions)

    def test_an_image_gets_the_same_caption_alone_and_in_a_batch(self, checkpoint):
        captioner = captioner_of(checkpoint)
        images = noise(3)
        together = captioner.caption(images)
        assert [captioner.caption([image])[0].text for image in images] == [
            caption.text for caption in together
        ]
        assert captioner.caption([]) == []

    def test_a_folder_without_weights_is_one_sentence(self, tmp_path):
        with pytest.raises(ModelError, match="tiny-blip has no weights"):
            captioner_of(tmp_path).caption(noise(1))

    def test_missing_weights_are_refused(self, tmp_path):
        from safetensors.torch import load_file, save_file

        folder = save_tiny_blip(tmp_path / "blip")
        weights = load_file(folder / "model.safetensors")
        dropped = next(name for name in weights if "crossattention" in name)
        del weights[dropped]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="lacks 1 of its weights"):
            captioner_of(folder).load()


class TestChoice:
    OWN = InstructBlipCaptioner(PROFILES["mini"].captioner)

    @pytest.mark.parametrize(
        ("profile", "choice", "expected"),
        [
            ("mini", "auto", "own"),
            ("mini", "mini", "own"),
            ("full", "auto", "mini"),
            ("full", "mini", "mini"),
            ("full", "profile", "own"),
        ],
    )
    def test_on_a_cpu(self, profile, choice, expected):
        settings = Settings(upload_captioner=choice, device="cpu")
        chosen = upload_captioner(PROFILES[profile], settings, self.OWN)
        assert (chosen is self.OWN) == (expected == "own")
        assert chosen.spec == PROFILES["mini"].captioner

    def test_a_folder_with_blip(self, checkpoint):
        settings = Settings(upload_captioner=str(checkpoint), device="cpu")
        chosen = upload_captioner(PROFILES["mini"], settings, self.OWN)
        assert isinstance(chosen, BlipCaptioner)
        assert chosen.caption(noise(1))[0].text

    def test_pickled_weights_are_refused_with_the_remedy(self, tmp_path):
        import torch

        folder = save_tiny_blip(tmp_path / "blip")
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
        settings = Settings(upload_captioner=str(folder), device="cpu")
        with pytest.raises(ModelError, match="blip has no weights in safetensors.*README"):
            upload_captioner(PROFILES["mini"], settings, self.OWN)
        with pytest.raises(ModelError, match="no weights in safetensors"):
            captioner_of(folder).load()

    def test_what_is_no_folder(self):
        settings = Settings(upload_captioner="no-such-folder", device="cpu")
        with pytest.raises(ModelNotFoundError, match="neither a folder"):
            upload_captioner(PROFILES["mini"], settings, self.OWN)

    def test_the_first_guess_grows_with_the_work(self, checkpoint):
        own, blip = self.OWN, captioner_of(checkpoint)
        large = InstructBlipCaptioner(PROFILES["full"].captioner)
        guesses = [first_guess_s(captioner, "cpu") for captioner in (own, blip, large)]
        assert guesses == sorted(set(guesses))

    def test_zero_gpu_is_read_from_the_environment_that_spaces_sets(self, monkeypatch):
        assert not Settings().zero_gpu
        monkeypatch.setenv("SPACES_ZERO_GPU", "true")
        assert Settings().zero_gpu
