"""Waves to log-mel on the GPU, as `WhisperFeatureExtractor` does it, and augmentation of waves.

Shapes: waves [clips, samples] at 16 kHz; mel [clips, 128, frames], 100 frames a second.
"""

import math

import torch
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from training.pretrain.speech.voices import RATE

HOP, FFT = 160, 400  # samples
TAIL = 5 * HOP  # silence kept after the longest clip, so that convolutions see the padding


class LogMel(nn.Module):
    """Log-mel spectrogram; equal to the feature extractor's on the frames it returns."""

    filters: Tensor
    window: Tensor

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        """Take the filter bank [bins, 128] of the extractor."""
        super().__init__()
        self.register_buffer("filters", torch.tensor(extractor.mel_filters, dtype=torch.float32))
        self.register_buffer("window", torch.hann_window(FFT))

    def forward(self, waves: Tensor) -> Tensor:
        """[clips, samples] -> [clips, 128, samples // 160]."""
        spectrum = torch.stft(waves, FFT, HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2
        log = torch.clamp(self.filters.T @ power, min=1e-10).log10()
        floor = log.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log, floor) + 4.0) / 4.0


def resample(waves: Tensor, speed: Tensor, lead: Tensor, length: int) -> Tensor:
    """Play each wave `speed` times as fast, after `lead` samples of silence (linear interpolation).

    Moves pace, pitch and formants together: another speaker as much as another pace.
    """
    place = (torch.arange(length, device=waves.device) - lead[:, None]) * speed[:, None]
    inside = (place >= 0) & (place < waves.shape[1] - 1)
    place = place.clamp(0, waves.shape[1] - 2)
    below = place.long()
    share = place - below
    value = waves.gather(1, below) * (1 - share) + waves.gather(1, below + 1) * share
    return value * inside


def disturb(waves: Tensor) -> Tensor:
    """Put each wave in a room, on a line and in noise, each with its own chance and strength."""
    clips, length = waves.shape
    padded = length + RATE // 2
    spectrum = torch.fft.rfft(waves, padded)
    frequency = torch.linspace(0, RATE / 2, spectrum.shape[1], device=waves.device)
    spectrum = spectrum * _rooms(clips, padded, waves.device) * _lines(clips, frequency)
    clean = torch.fft.irfft(spectrum, padded)[:, :length]
    noise = torch.fft.irfft(_noise_like(spectrum, frequency), padded)[:, :length]
    noisy = clean + noise * _strength(clean, noise)
    gain = 10 ** (_uniform(clips, -1.1, 0.25, waves.device) - 0.1)  # -24 … +3 dB
    return _telephone((noisy * gain).clamp(-1, 1))


def mask_mel(mel: Tensor, frames: Tensor) -> Tensor:
    """Blank a band of up to 20 mels and up to two spans of 0.16 s in half of the clips."""
    clips, bands, length = mel.shape
    device = mel.device
    band = torch.arange(bands, device=device)[None, :, None]
    time = torch.arange(length, device=device)[None, None, :]
    first, width = _uniform(clips, 0, bands, device), _uniform(clips, 0, 20, device)
    hidden = (band >= first[..., None]) & (band < (first + width)[..., None])
    hidden = hidden & _chance(clips, 0.8, device)[..., None]
    for _ in range(2):
        start = _uniform(clips, 0, 1, device) * frames[:, None]
        span = _uniform(clips, 0, 16, device)
        hidden = hidden | ((time >= start[..., None]) & (time < (start + span)[..., None]))
    hidden = hidden & _chance(clips, 0.6, device)[..., None]
    return torch.where(hidden, mel.mean(dim=(1, 2), keepdim=True), mel)


def _rooms(clips: int, length: int, device: torch.device) -> Tensor:
    """Spectra of impulse responses: a direct impulse and an exponential tail of 0.05 to 0.4 s."""
    time = torch.arange(RATE // 2, device=device) / RATE
    decay = torch.exp(-6.9 * time / _uniform(clips, 0.05, 0.4, device))
    tail = torch.randn(clips, len(time), device=device) * decay * _uniform(clips, 0.01, 0.08, device)
    tail = tail * _chance(clips, 0.35, device)
    tail[:, 0] = 1
    spectra: Tensor = torch.fft.rfft(tail, length)
    return spectra


def _lines(clips: int, frequency: Tensor) -> Tensor:
    """Gains of transmission lines: telephone band, lower bandwidth, and a tilt of ±6 dB/octave."""
    device = frequency.device
    phone = _chance(clips, 0.2, device)
    cut = torch.where(phone, 3400.0, _uniform(clips, 3500, 12000, device))
    low = torch.where(phone, 250.0, _uniform(clips, -200, 120, device))
    band = torch.sigmoid((cut - frequency) / 100) * torch.sigmoid((frequency - low) / 30)
    octaves = torch.log2(frequency.clamp(min=60) / 1000)
    return band * torch.exp2(octaves * _uniform(clips, -0.5, 0.5, device))


def _noise_like(spectrum: Tensor, frequency: Tensor) -> Tensor:
    """Noise from white to brown, as a spectrum."""
    slope = _uniform(len(spectrum), 0, 1.2, frequency.device)
    return torch.randn_like(spectrum) * (frequency.clamp(min=50) / 1000) ** -slope


def _strength(clean: Tensor, noise: Tensor) -> Tensor:
    """Scale for noise at 5 to 40 dB below speech, in six clips of ten (elsewhere -60 dB)."""
    clips, device = len(clean), clean.device
    ratio = torch.where(_chance(clips, 0.6, device), _uniform(clips, 5, 40, device), 60.0)
    level = clean.std(1, keepdim=True) / noise.std(1, keepdim=True).clamp(min=1e-9)
    return level * 10 ** (-ratio / 20)


def _telephone(waves: Tensor) -> Tensor:
    """Quantise some clips to eight bits with the mu law, as telephones do."""
    mu = 255.0
    curve = torch.sign(waves) * torch.log1p(mu * waves.abs()) / math.log1p(mu)
    coarse = (curve * 128).round() / 128
    back = torch.sign(coarse) * torch.expm1(coarse.abs() * math.log1p(mu)) / mu
    return torch.where(_chance(len(waves), 0.12, waves.device), back, waves)


def _uniform(clips: int, low: float, high: float, device: torch.device) -> Tensor:
    """One draw a clip, [clips, 1]."""
    return torch.empty(clips, 1, device=device).uniform_(low, high)


def _chance(clips: int, share: float, device: torch.device) -> Tensor:
    """One yes or no a clip, [clips, 1]."""
    return torch.rand(clips, 1, device=device) < share
