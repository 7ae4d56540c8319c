"""Audio2Expression: strengths of emotions for phrases, from features of the voice and of the words.

Either may be absent: a learned vector then takes its place. In training one of them is hidden at random, as in EDTalk's
paper, so that each works alone. A recurrent layer sees the phrases before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contract.expression import EMOTIONS

PREFIX = "audio2expression."
KNOTS = 9  # of the calibration
WORD_WEIGHT = 2.0  # weight of the learned scores of the words in the choice of the kind
LEAD = 0.001  # by which other kinds are weaker than the chosen one, at least


@dataclass(frozen=True)
class Audio2ExpressionConfig:
    """voice, words: number of features; of more features of words the first are taken. width: channels. brought: number
    of features that are brought in place of the voice's, 0 if none can be. expression: number of expression
    coefficients that are also computed, 0 if none are. alone: width of a second network for sounds without words, 0 if
    there is none."""

    voice: int = 48
    words: int = 32
    width: int = 64
    brought: int = 0
    expression: int = 0
    alone: int = field(default=0, metadata={"optional": True})  # missing in older banks


class VoiceAlone(nn.Module):
    """The network for sounds without any words. See `forward`."""

    def __init__(self, voice: int, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(voice, width * 3 // 2), nn.Linear(width * 3 // 2, width)
        self.phrases = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.skip = nn.Linear(width, width)
        self.kinds = nn.Linear(width, len(EMOTIONS) + 1)
        self.register_buffer("mean", torch.zeros(voice))
        self.register_buffer("scale", torch.ones(voice))

    def forward(self, voice: Tensor) -> Tensor:
        """(B, N, 8) logits of the kind, from features of the voice (B, N, 48)."""
        heard = self.last(F.silu(self.first((voice - self.mean) / self.scale)))
        return self.kinds(F.silu(self.phrases(heard)[0] + self.skip(heard)))


class Audio2Expression(nn.Module):
    """The network. See `forward`."""

    def __init__(self, config: Audio2ExpressionConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.voice_first = nn.Linear(config.voice, width * 3 // 2)
        self.voice_last = nn.Linear(width * 3 // 2, width)
        self.words_first = nn.Linear(config.words, width)
        self.words_last = nn.Linear(width, width)
        self.no_voice, self.no_words = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.phrases = nn.GRU(2 * width + 2, width // 2, batch_first=True, bidirectional=True)
        self.skip = nn.Linear(2 * width + 2, width)  # what a phrase itself says, besides its neighbours
        self.kinds = nn.Linear(width, len(EMOTIONS) + 1)
        self.brought = nn.Linear(config.brought, width * 3 // 2) if config.brought else None
        self.expression = nn.Linear(width, config.expression) if config.expression else None
        self.alone = VoiceAlone(config.voice, config.alone) if config.alone else None
        self.dropout = nn.Dropout(0.3)
        for name, size in (("voice", config.voice), ("words", config.words)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        knots = [number / (KNOTS - 1) for number in range(KNOTS)]  # on the meta device, linspace and clone import sympy
        self.register_buffer("calibration", torch.tensor([knots, knots]))

    def forward(self, voice: Tensor, words: Tensor, has_voice: Tensor, has_words: Tensor) -> tuple[Tensor, Tensor]:
        """Strengths (B, N, 7) of the emotions, 0 or more, and the logits (B, N, 8) of the kind, the last of neutral.

        voice: (B, N, 48), or (B, N, d) of a network with brought features. words: (B, N, 32), of which a network of
        an earlier bank takes the first 24. has_voice, has_words: (B, N), 1 where the phrase has them, else 0.
        """
        logits = self.kinds(self.hidden(voice, words, has_voice, has_words))
        if self.alone is not None:
            wordless = (has_words == 0).all(dim=1) & (has_voice > 0).all(dim=1)
            logits = torch.where(wordless[:, None, None], self.alone(voice), logits)
        return F.softplus(logits[..., :-1] - 1.0), logits

    def hidden(self, voice: Tensor, words: Tensor, has_voice: Tensor, has_words: Tensor) -> Tensor:
        """(B, N, width) what is known of each phrase."""
        first = self.voice_first((voice - self.voice_mean) / self.voice_scale) if self.brought is None else (
            self.brought(voice)
        )  # fmt: skip
        heard = self.voice_last(self.dropout(F.silu(first)))
        words = (words[..., : self.config.words] - self.words_mean) / self.words_scale
        word_features = self.words_last(self.dropout(F.silu(self.words_first(words))))
        heard = torch.where(has_voice[..., None] > 0, heard, self.no_voice)
        word_features = torch.where(has_words[..., None] > 0, word_features, self.no_words)
        joined = torch.cat([heard, word_features, has_voice[..., None], has_words[..., None]], dim=-1)
        return F.silu(self.dropout(self.phrases(joined)[0] + self.skip(joined)))

    @torch.no_grad()
    def for_voices(self) -> dict[str, Tensor]:
        """The weights of a `VoiceAlone` that answers as this network does to a voice without words."""
        width = self.config.width
        rest = torch.cat([self.no_words, torch.tensor([1.0, 0.0])])  # what takes the place of words, and both flags
        weights = {f"phrases.{name}": part for name, part in self.phrases.state_dict().items()}
        for name in [name for name in weights if "weight_ih" in name]:
            bias = name.replace("weight", "bias")
            weights[bias] = weights[bias] + weights[name][:, width:] @ rest
            weights[name] = weights[name][:, :width]
        weights["skip.weight"] = self.skip.weight[:, :width]
        weights["skip.bias"] = self.skip.bias + self.skip.weight[:, width:] @ rest
        for name, layer in (("first", self.voice_first), ("last", self.voice_last), ("kinds", self.kinds)):
            weights |= {f"{name}.{part}": value for part, value in layer.state_dict().items()}
        return weights | {"mean": self.get_buffer("voice_mean"), "scale": self.get_buffer("voice_scale")}

    def calibrated(self, strengths: Tensor) -> Tensor:
        """Strengths (..., 7) from 0 to 1, by the table `calibration`: 0.7 for a clear emotion."""
        inputs, value = self.get_buffer("calibration")
        place = torch.searchsorted(inputs, strengths.contiguous()).clamp(1, KNOTS - 1)
        part = ((strengths - inputs[place - 1]) / (inputs[place] - inputs[place - 1]).clamp(min=1e-6)).clamp(0, 1)
        return value[place - 1] + part * (value[place] - value[place - 1])

    def suggested(self, strengths: Tensor, logits: Tensor, words: Tensor) -> Tensor:
        """Calibrated strengths (..., 7) of what `forward` returned.

        words: (..., 32), zeros where there are none. The kind is chosen by the logits and the learned scores of the
        words together, and gets the largest strength. All are 0 where the kind is neutral.
        """
        if self.config.words == words.shape[-1]:  # networks of earlier banks have no such scores
            logits = logits + WORD_WEIGHT * words[..., -logits.shape[-1] :]
        kind = logits.argmax(dim=-1, keepdim=True)
        chosen, strength = kind.clamp(max=len(EMOTIONS) - 1), self.calibrated(strengths)
        largest, at = strength.max(dim=-1, keepdim=True)
        rest = strength.scatter(-1, at, strength.gather(-1, chosen))
        rest = torch.minimum(rest, (largest - LEAD).clamp(min=0))  # calibration maps several answers to one value
        return rest.scatter(-1, chosen, largest) * (kind < len(EMOTIONS))
