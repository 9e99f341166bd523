"""Decisions for several engines are those of sums over everything, at once."""

from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from gateway.scheduling.routing.admission import RoutedAdmission
from tests.unit.scheduling.routing.eager import EagerForecast, EagerPeak

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
ENGINES, PAGE, PROMPT = 4, 16, 400
COSTS = [  # all differ, so that no two engines are as good as each other
    EngineCost(LinearStepTime(step_s, 1e-4 * number, 5e-4, 1e-6, 1e-8 * number), step_tokens=64)
    for number, step_s in enumerate((0.01, 0.0113, 0.0131, 0.02), 1)
]
events = st.lists(
    st.sampled_from(["arrive", "arrive", "step", "step", "end", "outdate", "assume", "lose"]),
    min_size=20,
    max_size=60,
)


def admissions(pages: int, most: int | None) -> list[RoutedAdmission]:
    """The product's, and one of sums over everything."""
    found = [
        RoutedAdmission([FuturePeak() for _ in COSTS]),
        RoutedAdmission([EagerPeak() for _ in COSTS]),
    ]
    found[1].router.forecast = EagerForecast(ENGINES)
    for admission in found:
        for engine, cost in enumerate(COSTS):
            admission.resize_engine(engine, Capacity(pages, PAGE, most))
            admission.price_engine(engine, cost)
    return found


class Scene:
    """Sequences on engines, and two admissions that see the same of them."""

    def __init__(self, admissions: list[RoutedAdmission]) -> None:
        self.admissions = admissions
        self.running: list[dict[str, RunningSequence]] = [{} for _ in COSTS]
        for admission in admissions:
            admission.read(lambda engine: list(self.running[engine].values()))

    def begin(self, sequences: list[RunningSequence]) -> None:
        """These run when the admissions first look."""
        for sequence in sequences:
            self.running[sequence.engine][sequence.id] = sequence
        for admission in self.admissions:
            admission.refresh(sequences)

    def admit(self, request: QueuedRequest) -> None:
        admitted = [admission.admit([request]) for admission in self.admissions]
        assert admitted[0] == admitted[1]
        if not admitted[0]:
            return
        chosen = [admission.router.engine_of(request.id) for admission in self.admissions]
        assert chosen[0] == chosen[1]
        assert chosen[0] is not None
        reserved = [admission.reserve(request) for admission in self.admissions]
        assert reserved[0] == reserved[1]
        self.running[chosen[0]][request.id] = replace(request.started(), engine=chosen[0])

    def step(self, engine: int, steps: int) -> None:
        for admission in self.admissions:
            admission.advance_engine(engine, steps)
        for key, each in list(self.running[engine].items()):
            if each.generated + steps > each.max_tokens:
                del self.running[engine][key]
                self._leave(key)
            else:
                self.running[engine][key] = replace(each, generated=each.generated + steps)

    def _leave(self, request_id: str) -> None:
        for admission in self.admissions:
            admission.leave(request_id)

    def end(self, engine: int, random: Random) -> None:
        if self.running[engine]:
            ended = random.choice(sorted(self.running[engine]))
            del self.running[engine][ended]
            self._leave(ended)

    def lose(self, engine: int) -> None:
        self.running[engine].clear()
        for admission in self.admissions:
            admission.lost(engine)
            admission.router.availability.returned(engine, gradually=False)


@given(events, st.integers(30, 300), st.sampled_from([None, 5]), st.integers(0, 10_000))
def test_decisions_are_those_of_sums_over_everything(
    a_request: MakeRequest,
    a_sequence: MakeRunning,
    drawn: list[str],
    pages: int,
    most: int | None,
    seed: int,
) -> None:
    scene, random = Scene(admissions(pages, most)), Random(seed)
    scene.begin(
        [
            replace(
                a_sequence(random.randint(1, PROMPT), 100, generated=random.randint(0, 90)),
                engine=random.randrange(ENGINES),
            )
            for _ in range(random.randint(0, 3 * ENGINES))
        ]
    )
    for event in drawn:
        engine = random.randrange(ENGINES)
        if event == "arrive":
            for _ in range(random.randint(1, 4)):
                prompt, generation = random.randint(1, PROMPT), random.randint(1, 150)
                scene.admit(a_request(prompt, generation, max_tokens=random.choice([9, 60, 400])))
        elif event == "step":
            scene.step(engine, random.randint(1, 30))
        elif event == "end":
            scene.end(engine, random)
        elif event == "lose":
            scene.lose(engine)
        elif event == "outdate":
            for admission in scene.admissions:
                admission.outdate()
        else:
            quantiles = random.choice([None, (5.0, 10.0, 20.0, 40.0, 60.0, 80.0)])
            for admission in scene.admissions:
                admission.assume(quantiles)
