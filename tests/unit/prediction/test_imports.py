import subprocess
import sys

GATEWAY_SIDE = (
    "serving.predictor",
    "serving.process_client",
    "features.length_history",
    "adaptation.conformal",
    "model.artefact",
    "features.features",
    "lifecycle.registry",
    "lifecycle.listener",
    "lifecycle.runs",
    "lifecycle.auto_training",
    "lifecycle.comparison",
    "lifecycle.drift_series",
    "lifecycle.erasure",
    "lifecycle.log_import",
)
LEARNING_LIBRARIES = (
    "torch",
    "lightgbm",
    "sklearn",
    "scipy",
    "sentence_transformers",
    "transformers",
)


def test_gateway_process_imports_no_learning_library() -> None:
    imports = "; ".join(f"import gateway.prediction.{name}" for name in GATEWAY_SIDE)
    script = f"import sys; {imports}; print([n for n in {LEARNING_LIBRARIES} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"
