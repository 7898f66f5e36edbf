"""Adapters of other packages: found through `sightline.adapters`, and refused by name where they cannot be used."""

import sys

import pytest
import sightline
from sightline.models import auto
from sightline.models.errors import AdapterInvalid

MODULE = """
from sightline.models.llava import LlavaAdapter

class Mine(LlavaAdapter):
    family = "mine"

nothing = 3
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution: `installed("mine", "llava = mine_adapters:Mine")`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(auto, "_ADAPTERS", type(auto._ADAPTERS)())
    auto._plugin.cache_clear()

    def install(name, *entries):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[sightline.adapters]\n" + "\n".join(entries) + "\n")
        (tmp_path / "mine_adapters.py").write_text(MODULE)

    yield install
    auto._plugin.cache_clear()
    sys.modules.pop("mine_adapters", None)


def test_an_adapter_of_another_package_serves_its_family(installed, llava, llama, inputs):
    plain = llava.generate(**inputs(), max_new_tokens=3, do_sample=False)
    installed("mine", "llava = mine_adapters:Mine", "other = no_such_module:Other")
    adapter = auto.adapter_for(llava)
    assert (adapter.family, type(adapter).__module__) == ("mine", "mine_adapters")
    assert auto.adapter_for(llama).family == "text", "packages for other families are left alone"
    decoder = sightline.VCD(alpha=0.0, beta=0.0)
    ids = sightline.generate(llava, decoder, inputs(), max_new_tokens=3, do_sample=False)
    assert ids.tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            ["llava = no_such_module:Mine"],
            r"'llava', no_such_module:Mine of mine, cannot be loaded: ModuleNotFoundError: No module named "
            r"'no_such_module'\. Mend or uninstall",
        ),
        (["llava = mine_adapters:Absent"], r"cannot be loaded: AttributeError: .*'Absent'"),
        (
            ["llava = mine_adapters:nothing"],
            r"mine_adapters:nothing of mine, is no class of .*Adapter\. Name the class",
        ),
    ],
)
def test_an_adapter_that_cannot_be_used_names_its_package(installed, llava, entries, said):
    installed("mine", *entries)
    with pytest.raises(AdapterInvalid, match=said):
        auto.adapter_for(llava)


def test_two_packages_for_one_family(installed, llava):
    installed("mine", "llava = mine_adapters:Mine")
    installed("yours", "llava = your_adapters:Yours")
    with pytest.raises(AdapterInvalid, match="Two packages bring an adapter for 'llava'") as error:
        auto.adapter_for(llava)
    assert "mine_adapters:Mine of mine" in str(error.value)
    assert "your_adapters:Yours of yours" in str(error.value)
