from __future__ import annotations

from orchestrator.equipment import _MAX_READERS, Equipment


def test_readers_are_shared_and_those_of_callers_names_do_not_pile_up() -> None:
    equipment = Equipment()
    assert equipment.reader("json:total") is equipment.reader("json:total")
    for number in range(2 * _MAX_READERS):
        assert equipment.reader(f"json:field{number}").extract(f'{{"field{number}": 5}}') == "5"
    assert len(equipment._readers) == _MAX_READERS
    assert equipment.reader("number") is equipment.reader("number")
