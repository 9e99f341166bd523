"""The figures of the report page, in order: what each says, and which rows it shows."""

from typing import Final

from benchmarks.report.figure import LIVE, Excerpt, Figure

FIGURES: Final = (
    Figure(
        "S1 in replay: Magnus's ladder",
        "S1",
        "simulated",
        "make bench F=S1 A='--data DIR'",
        "The Magnus paper improves a static batch step by step: similar lengths in a batch of "
        "fixed size, a batch size that adapts, then the order by response ratio; next to it is "
        "continuous batching with memory for the worst case. Each rung is a policy of the product. "
        "Seven simulated instances of ChatGLM-6B on a V100 of 32 GB answer the texts. The paper's "
        "baseline with 4-bit weights is left out: the product does not quantise. The paper reports "
        "66 to 234 % more requests a second than its fixed batch, and 60 to 89.7 % shorter "
        "responses.",
        part="replay",
        excerpts=(
            Excerpt(
                "With a backlog:",
                {"part": "replay", "setting": "paper's apps"},
                {
                    "rung": "rung",
                    "predictor": "predictor",
                    "requests/s": "requests/s",
                    "/fixed": "over fixed",
                    "tokens/s": "tokens/s",
                    "valid tokens/s": "valid tokens/s",
                    "batch": "mean batch",
                },
            ),
            Excerpt(
                "At a load relative to the saturated rate of `fixed`:",
                {"part": "replay", "setting": "paper's apps"},
                {
                    "load": "load",
                    "rung": "rung",
                    "predictor": "predictor",
                    "mean s": "mean response, s",
                    "/fixed": "over fixed",
                    "p95 s": "p95, s",
                },
            ),
        ),
    ),
    Figure(
        "S1 live: Magnus's ladder",
        "S1",
        "live",
        "make bench F=S1 A='--data DIR'",
        "The same rungs in the running gateway and engine, in lock step. *Valid tokens per "
        "modelled second* takes the engine's steps at one cost for all rungs, which `lmaas "
        "calibrate` measured on this machine, so that other work on the machine does not enter.",
        part=LIVE,
        excerpts=(
            Excerpt(
                "All requests at once:",
                {"part": "live"},
                {
                    "model": "model",
                    "rung": "rung",
                    "valid tokens/modelled s": "valid tokens/modelled s",
                    "/fixed": "over fixed",
                    "valid tokens/s": "valid tokens/s",
                    "valid share": "valid share",
                    "batch": "mean batch",
                },
            ),
            Excerpt(
                "At a load relative to the saturated rate of `fixed`:",
                {"part": "live"},
                {
                    "model": "model",
                    "load": "load",
                    "rung": "rung",
                    "mean s": "mean response, s",
                    "/fixed": "over fixed",
                    "replay /fixed": "in replay",
                },
            ),
        ),
    ),
    Figure(
        "S2 in replay: order",
        "S2",
        "simulated",
        "make bench F=S2 A='--data DIR --trace FILE'",
        "Response times under the default policy over those of first come, first served (FCFS), "
        "from half load to overload, with memory for 8 and for 64 mean requests. The oracle is the "
        "same policy, given the true lengths.",
        details="s2-order",
        excerpts=(
            Excerpt(
                "Mean response over FCFS's, Poisson arrivals, little memory:",
                {"arrivals": "poisson", "pool": "tight"},
                {
                    "source": "lengths",
                    "load": "load",
                    "lmaas mean": "ours",
                    "oracle-lmaas mean": "oracle",
                    "sjf mean": "shortest first",
                    "hrrn mean": "response ratio",
                    "lmaas p99": "ours, p99",
                },
            ),
        ),
    ),
    Figure(
        "U2: several engines",
        "U2",
        "simulated",
        "make bench F=U2 A='--data DIR --trace FILE'",
        "One queue in front of 2 to 64 engines, each request to the one where it is predicted to "
        "end first, against routers that choose an engine at arrival and leave the rest to its own "
        "queue. At a load of 0.9.",
        details="u2-several-engines",
        excerpts=(
            Excerpt(
                "On the arrival trace, with one engine of half the speed:",
                {"source": "trace", "speeds": "one of half speed"},
                {
                    "engines": "engines",
                    "router": "router",
                    "order": "order in the queues",
                    "mean s": "mean, s",
                    "p99 s": "p99, s",
                    "lmaas/mean": "ours over it, mean",
                    "lmaas/p99": "ours over it, p99",
                },
            ),
        ),
    ),
    Figure(
        "U2 live: two engines",
        "U2",
        "live",
        "make bench F=U2 A='--part live'",
        "Two real engines behind the running gateway, next to a replay of the same requests on two "
        "simulated ones, whose steps cost what was measured of one engine just before.",
        part=LIVE,
        details="u2-live-two-real-engines",
        excerpts=(
            Excerpt(
                "",
                {},
                {
                    "policy": "policy",
                    "least share": "tokens of the engine with fewer",
                    "live_mean_s": "mean, s, live",
                    "replay_mean_s": "mean, s, replay",
                    "mean_off": "off",
                    "live_p99_s": "p99, s, live",
                    "replay_p99_s": "p99, s, replay",
                    "p99_off": "off, p99",
                },
            ),
        ),
    ),
    Figure(
        "S2 live: order",
        "S2",
        "live",
        "make bench F=S2-live",
        "The running gateway at three loads with little memory, under FCFS and under the default "
        "policy, next to a replay of the same requests.",
        part=LIVE,
        excerpts=(
            Excerpt(
                "The default policy over FCFS:",
                {},
                {
                    "load": "load",
                    "mean over fcfs, live": "mean, live",
                    "mean over fcfs, replay": "mean, replay",
                    "p99 over fcfs, live": "p99, live",
                    "p99 over fcfs, replay": "p99, replay",
                },
            ),
        ),
    ),
    Figure(
        "S3 in replay: memory",
        "S3",
        "simulated",
        "make bench F=S3",
        "S³ reserves KV memory for the predicted length of an answer in place of the longest "
        "possible one. Shown are sequences in memory and tokens a second for several rules, on "
        "simulated models of 6B to 33B on a card of 80 GB.",
        details="s3-memory",
        excerpts=(
            Excerpt(
                "GPT-J 6B, fixed lengths:",
                {"lengths": "fixed", "model": "gpt-j-6b"},
                {
                    "reserved": "reserved",
                    "in flight": "in memory",
                    "/maximum's": "over the maximum's",
                    "/oracle's": "tokens/s over the oracle's",
                    "KV use": "KV use",
                },
            ),
        ),
    ),
    Figure(
        "S3 live: memory",
        "S3",
        "live",
        "make bench F=S3-live",
        "The running gateway and engine with little KV memory: what the supervisor of "
        "reservations extended, preempted and computed again, and what a predictor that is wrong "
        "costs.",
        part=LIVE,
        excerpts=(
            Excerpt(
                "By what is reserved:",
                {},
                {
                    "contender": "contender",
                    "in memory": "in memory",
                    "/maximum's": "over the maximum's",
                    "tokens/s": "tokens/s",
                    "/oracle's": "over the oracle's",
                    "KV use": "KV use",
                },
            ),
            Excerpt(
                "What the supervisor counted:",
                {},
                {
                    "contender": "contender",
                    "extensions": "extensions",
                    "preemptions": "preemptions",
                    "recomputed tokens": "recomputed tokens",
                    "out of memory": "out of memory",
                    "lost": "lost answers",
                    "changed": "changed texts",
                },
            ),
        ),
    ),
    Figure(
        "S6 in replay: admission",
        "S6",
        "simulated",
        "make bench F=S6",
        "All requests arrive at once, with long answers. Admission weighs memory left idle against "
        "preemptions, both in seconds of the engine, next to rules that do not. A ratio of tokens "
        "per second above 1, and of the p99 to the first token below 1, is in our favour.",
        details="s6-admission",
        excerpts=(
            Excerpt(
                "Predictions with noise (τ of 0.7), uniform lengths:",
                {"lengths": "noise", "workload": "uniform"},
                {
                    "engine": "engine",
                    "tokens/s over held": "tokens/s over held",
                    "p99 over held": "p99 over held",
                    "tokens/s over peak, margin adapted": "tokens/s over a margin",
                    "p99 over peak, margin adapted": "p99 over a margin",
                    "tokens/s over S³": "tokens/s over S³",
                    "p99 over S³": "p99 over S³",
                },
            ),
        ),
    ),
    Figure(
        "W1 live: the wait that is reported",
        "W1",
        "live",
        "make bench F=W1",
        "Each waiting client is given the time at which its answer is expected to start, as a "
        "band. The naive "
        "estimates go by the number of requests that wait, and by the last 100 waits; their bands "
        "come from the same calibration.",
        part=LIVE,
        details="w1-expected-waits",
        excerpts=(
            Excerpt(
                "",
                {"part": "live"},
                {
                    "estimate": "estimate",
                    "waits": "waits",
                    "inside": "inside [P10, P90]",
                    "width s": "median width, s",
                    "width s, 80% inside": "where 80 % are inside",
                    "error s": "median error, s",
                },
            ),
        ),
    ),
    Figure(
        "Learning live",
        "learning",
        "live",
        "make bench F=learning A='--data DIR'",
        "SmolLM2 answers texts of six apps; in the middle, the apps that had a tenth of the "
        "traffic get nine tenths. With learning on, an operator starts one training run and the "
        "schedule starts the rest; versions go live by the product's own rule. With learning off "
        "(`LMAAS_AUTOMATIC_TRAINING=false`), predictions come from the lengths of earlier answers "
        "of the same app, which is history alone, not nothing. *Prior* is a prediction from "
        "nothing at all.",
        details="learning-live",
        excerpts=(
            Excerpt(
                "By phase:",
                {},
                {
                    "phase": "phase",
                    "requests": "requests",
                    "log-RMSE prior": "log-RMSE, prior",
                    "log-RMSE off": "off",
                    "log-RMSE on": "on",
                    "pinball off": "pinball, off",
                    "pinball on": "pinball, on",
                    "P90 covers off": "P90 covers, off",
                    "P90 covers on": "on",
                    "ours/FCFS": "mean response over FCFS's",
                },
            ),
        ),
    ),
    Figure(
        "P1-own: prediction of SmolLM2's own lengths",
        "P1-own",
        "offline",
        "make bench F=P1-own A='--data DIR'",
        "SmolLM2 answered lines of all 14 apps through the running product (`make bench "
        "F=own-lengths`), and some of them twice: how far two answers to one text differ gives the "
        "*noise floor*, the error of the best possible predictor. Length prediction is learned and "
        "judged on these answers. The goal is 60 % of the way from the median of each app to the "
        "noise floor.",
        excerpts=(
            Excerpt(
                "All apps:",
                {"history": "off"},
                {
                    "predictor": "predictor",
                    "log_rmse_mean": "log-RMSE",
                    "token_rmse": "token RMSE",
                    "tau": "τ",
                    "coverage": "P90 covers",
                },
            ),
            Excerpt(
                "log-RMSE by app:",
                {},
                {
                    "app": "app",
                    "ours": "ours",
                    "line per app": "line per app",
                    "app median": "app median",
                    "Magnus": "Magnus",
                    "noise floor": "noise floor",
                },
            ),
        ),
    ),
    Figure(
        "P1: prediction of recorded lengths",
        "P1",
        "offline",
        "make bench F=P1 A='--data DIR'",
        "Length prediction on 37,062 requests of 14 apps, whose answers were written by people and "
        "by larger models, against simpler predictors and against Magnus's as published.",
        details="p1-length-prediction",
        excerpts=(
            Excerpt(
                "All apps, lengths in words, without history:",
                {"lengths": "words", "history": "off"},
                {
                    "predictor": "predictor",
                    "log_rmse_mean": "log-RMSE",
                    "token_rmse": "token RMSE",
                    "tau": "τ",
                    "coverage": "P90 covers",
                },
            ),
        ),
    ),
    Figure(
        "E1: the engine on random models",
        "E1",
        "engine",
        "make bench F=E1",
        "Output tokens a second of 128 requests at once on a CPU, with models of 7 and 100 million "
        "random weights, against transformers and vLLM.",
        details="e1-the-engine-against-others",
        excerpts=(
            Excerpt(
                "Ratios of rounds, with 95 % intervals:",
                {},
                {
                    "size": "model",
                    "ratio": "ratio",
                    "median": "median",
                    "low": "low",
                    "high": "high",
                },
            ),
        ),
    ),
    Figure(
        "E4: the engine on SmolLM2",
        "E4",
        "engine",
        "make bench F=E4 A='--data DIR'",
        "SmolLM2-135M from one folder in three engines on a CPU, each in its fastest number "
        "format.",
        details="e4-a-real-model",
        excerpts=(
            Excerpt(
                "",
                {},
                {
                    "clients": "clients",
                    "engine": "engine",
                    "tokens_s": "tokens/s",
                    "first_token_ms": "first token, ms",
                    "token_ms": "a token, ms",
                },
            ),
        ),
    ),
    Figure(
        "I2: reading a fifth of the keys and values",
        "I2",
        "engine",
        "make bench F=I2 A='--model DIR'",
        "SmolLM2 reads texts and attends to a part of them: what each selection loses against full "
        "attention. The oracle knows which tokens get most attention.",
        details="i2-what-is-lost",
        excerpts=(
            Excerpt(
                "At a fifth of the tokens:",
                {"share": 0.2},
                {
                    "method": "selection",
                    "KL, 1024": "KL at 1,024 tokens",
                    "KL, 2048": "KL at 2,048 tokens",
                    "same likeliest token": "same likeliest token",
                    "copy: same": "in copies",
                    "facts: digits right": "digits of facts",
                },
            ),
        ),
    ),
    Figure(
        "I3: answers that the device cannot hold",
        "I3",
        "engine",
        "make bench F=I3 A='--model DIR'",
        "Eight answers whose keys and values are four times the device's pool, on a CPU with "
        "copies slowed down: a full fetch takes this multiple of a step's computation. At 6.5 "
        "times it is an 8B model at 32,768 tokens behind 55 GB/s.",
        details="i3-behind-a-link",
        excerpts=(
            Excerpt(
                "",
                {},
                {
                    "full fetch over step": "full fetch over step",
                    "memory": "memory",
                    "tokens/s": "tokens/s",
                    "decoding step, ms": "decoding step, ms",
                    "preemptions": "preemptions",
                },
            ),
        ),
    ),
)  # fmt: skip
