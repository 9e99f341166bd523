"""Tables, plots and the HTML page."""

import re
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gateway.errors import InvalidRequest
from gateway.replay.cost.model import EngineModel, EngineShape, LinearCost
from gateway.replay.plan import PolicyComparison, ReplayPlan, compare_policies
from gateway.replay.report.report import write_report
from gateway.replay.report.table import WIDTH, tables
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload

ENGINE = EngineModel(
    cost=LinearCost(step_s=0.01, prompt_token_s=1e-5, sequence_s=1e-4, kv_token_s=1e-7),
    shape=EngineShape(pages=100, page_tokens=16, context_tokens=1_024),
)


@cache
def compared(
    *, tenants: int = 1, loads: tuple[float, ...] = (), **columns: Any
) -> PolicyComparison:
    random = np.random.default_rng(1)
    workload = Workload.of(
        random.exponential(size=80).cumsum(),
        random.integers(5, 50, size=80),
        random.integers(5, 200, size=80),
        tenant=random.integers(tenants, size=80),
        tenants=[f"<tenant {number}>" for number in range(tenants)],
        **columns,
    )
    plan = ReplayPlan(
        scenario=Scenario(source=workload),
        engine=ENGINE,
        policies=("fcfs", "oracle-sjf"),
        loads=loads,
        seeds=2,
    )
    return compare_policies(plan, lambda _: None)


def shown(found: PolicyComparison) -> str:
    text = StringIO()
    Console(file=text, width=WIDTH).print(tables(found.rows))
    return text.getvalue()


def test_page_has_its_plots_and_the_numbers_of_the_table(tmp_path: Path) -> None:
    found = compared(tenants=3, loads=(0.5, 0.9))
    page = write_report(found, ["one <fact>"], tmp_path / "report")
    text = page.read_text()
    pictures = re.findall(r'<img src="([^"]+)"', text)
    assert pictures == ["response.png", "deciles.png", "queue.png", "memory.png", "tenants.png"]
    assert all((page.parent / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert f"{found.rows[0].measures['p50_s'].mean:,.2f}</td>" in text
    assert "one &lt;fact&gt;" in text
    assert "&lt;tenant 0&gt;" in text
    assert "http" not in text  # the page loads nothing from the network


def test_page_with_one_load_and_one_tenant(tmp_path: Path) -> None:
    page = write_report(compared(), [], tmp_path)
    assert "tenants.png" not in page.read_text()
    assert (tmp_path / "response.png").exists()


def test_error_names_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="file"):
        write_report(compared(), [], tmp_path / "file")


def test_table_has_a_row_for_each_policy_and_a_section_for_each_load() -> None:
    lines = [line.split() for line in shown(compared(loads=(0.5, 0.9))).splitlines()]
    starts = [
        line[:2] for line in lines if line and ("fcfs" in line[:2] or "oracle-sjf" in line[:2])
    ]
    assert [line[0] for line in starts[:4]] == ["0.5", "oracle-sjf", "0.9", "oracle-sjf"]


def test_table_fits_its_width_without_truncation() -> None:
    text = shown(compared(tenants=3, loads=(0.5,), deadline_s=2.0))
    assert "…" not in text
    assert "goodput" in text
    assert "<tenant 2>" in text


def test_table_has_no_goodput_without_deadlines() -> None:
    assert "goodput" not in shown(compared())
