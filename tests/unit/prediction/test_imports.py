import subprocess
import sys

GATEWAY_SIDE = (
    "serving.predictor",
    "serving.process_client",
    "features.length_history",
    "features.features",
    "adaptation.conformal",
    "model.artefact",
    "lifecycle.registry",
    "lifecycle.listener",
    "lifecycle.runs",
    "lifecycle.auto_training",
    "lifecycle.comparison",
    "lifecycle.drift_series",
    "lifecycle.erasure",
    "lifecycle.log_import",
)
HEAVY = ("torch", "lightgbm", "sklearn", "scipy", "sentence_transformers", "transformers")


def test_gateways_own_process_imports_no_learning_library() -> None:
    imports = "; ".join(f"import gateway.prediction.{name}" for name in GATEWAY_SIDE)
    script = f"import sys; {imports}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"
