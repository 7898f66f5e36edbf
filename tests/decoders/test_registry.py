"""The registry: what it lists, what it says of typos and collisions, and plug-ins of other packages."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import sightline
from sightline.decoders import registry
from sightline.decoders.strategy import Strategy
from sightline.models import errors


@pytest.fixture
def clean(monkeypatch):
    """The registry as it stands, put back afterwards."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_loaded_plugins", True)
    return registry


def test_lists_controls_then_strategies():
    names = sightline.decoders.names()
    kinds = [sightline.decoders.get(name).kind for name in names]
    assert kinds == sorted(kinds)
    assert {"greedy", "sample", "cut_only", "shift", "vcd"} <= set(names)


def test_builds_what_a_command_line_gives():
    built = sightline.decoders.build("vcd", {"alpha": 2, "noise_step": 900})
    assert built == sightline.VCD(alpha=2.0, noise_step=900)
    assert isinstance(built.alpha, float)
    assert built.params() == {"alpha": 2.0, "beta": 0.1, "noise_step": 900, "noise_schedule": "sigmoid", "seed": 0}
    assert len({built, sightline.VCD(alpha=2.0, noise_step=900)}) == 1


def test_unknown_decoder_names_the_nearest_and_all():
    with pytest.raises(errors.UnknownDecoder, match=r"no decoder 'vdc'\. Did you mean 'vcd'\? Known: .*greedy"):
        sightline.decoders.build("vdc")


def test_unknown_parameter_names_the_nearest_and_all():
    with pytest.raises(errors.UnknownParameter, match=r"no parameter 'alhpa'\. Did you mean 'alpha'\? It has: alpha"):
        sightline.decoders.build("vcd", {"alhpa": 1.0})
    with pytest.raises(errors.UnknownParameter, match="It has none"):
        sightline.decoders.build("greedy", {"alpha": 1.0})


@dataclass(frozen=True)
class Mine(Strategy):
    key: ClassVar[str] = "mine"
    title: ClassVar[str] = "Mine"

    names: tuple[str, ...] = ()
    optional: int | None = None


@dataclass(frozen=True)
class Thief(Strategy):
    key: ClassVar[str] = "vcd"
    title: ClassVar[str] = "Thief"


def test_collisions_name_both_sides(clean):
    with pytest.raises(errors.DecoderCollision, match=r"'vcd' is asked for by .*Thief and held by .*vcd\.VCD"):
        clean.register(Thief)
    assert clean.register(Mine) is Mine
    assert clean.register(Mine) is Mine


def test_other_packages_register_by_entry_point(clean, monkeypatch):
    class Entry:
        def load(self):
            return Mine

    monkeypatch.setattr(registry, "_loaded_plugins", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()] if group == "sightline.decoders" else [])
    assert "mine" in clean.names()
    assert clean.build("mine", {"names": ["a", "b"]}) == Mine(names=("a", "b"))


def test_fields_take_their_declared_types():
    assert Mine(optional=None).optional is None
    with pytest.raises(errors.InvalidParameter, match="optional must be a whole number, got 'x'"):
        Mine(optional="x")
